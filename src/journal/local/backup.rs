//! Copies the records of a journal that wait to a new journal, beside a server that has it open.
//!
//! Segments are copied first and the checkpoint is read last. A segment is freed, and its file used again, only once a
//! checkpoint behind its last record is durable. So each copy is whole, or all of its records are below that
//! checkpoint: then they are in a store that is copied later, and the copy is left out.

use std::io;
use std::path::Path;

use super::JournalError;
use super::checkpoint::CheckpointFile;
use super::file_system::{FileSystem, read_full, write_all};
use super::format::Checkpoint;
use super::journal_records::{JournalExtent, extent};
use super::listing::Listing;

/// Bytes copied in one call.
const COPY_BYTES: usize = 1024 * 1024;

/// Copies what waits in the journal of `dir` to a new journal in `to`, and returns the extent of that. Every record
/// that was durable before the call is in the copy, or below its `stored_below`.
///
/// # Errors
/// When there is no journal, or it cannot be read or copied.
pub fn back_up(fs: &dyn FileSystem, dir: &Path, to: &Path) -> Result<JournalExtent, JournalError> {
    let failed = |error| JournalError::io("copy", dir, error);
    let before = checkpoint_of(fs, dir)?;
    let listing = Listing::new(fs.list(dir).map_err(failed)?);
    let of_journal = listing.segments.into_iter().filter(|(_, id, _)| *id == before.id);
    let segments: Vec<_> = of_journal.map(|(first_seq, _, name)| (first_seq, name)).collect();
    fs.create_dir(to).map_err(|error| JournalError::io("create", to, error))?;
    let mut copied = Vec::new();
    for (first_seq, name) in &segments {
        match copy(fs, &dir.join(name), &to.join(name)) {
            Ok(()) => copied.push((*first_seq, name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(JournalError::io("copy", &dir.join(name), error)),
        }
    }
    let after = checkpoint_of(fs, dir)?;
    for (index, (first_seq, name)) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map(|(next, _)| *next);
        let is_stored = next.is_some_and(|next| next <= after.acked);
        let is_copied = copied.iter().any(|(copied, _)| copied == first_seq);
        if is_copied && is_stored {
            fs.remove(&to.join(name)).map_err(failed)?;
        } else if !is_copied && !is_stored && (next.is_some() || after.acked <= *first_seq) {
            return Err(JournalError::Changed { dir: dir.to_owned() });
        }
    }
    let copy_failed = |error| JournalError::io("write", to, error);
    let (mut checkpoint, _) = CheckpointFile::open(fs, to).map_err(copy_failed)?;
    checkpoint.write(Checkpoint { synced: after.acked, ..after }).map_err(copy_failed)?;
    fs.sync_dir(to).map_err(copy_failed)?;
    extent(fs, to)
}

fn checkpoint_of(fs: &dyn FileSystem, dir: &Path) -> Result<Checkpoint, JournalError> {
    let failed = |error| JournalError::io("read the checkpoint of", dir, error);
    let checkpoint = CheckpointFile::read(fs, dir).map_err(failed)?;
    checkpoint.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// Copies a file, durably. Zeros, as at the end of a preallocated one, become a hole.
fn copy(fs: &dyn FileSystem, from: &Path, to: &Path) -> io::Result<()> {
    let source = fs.open(from)?;
    let copy = fs.create(to)?;
    let (bytes, mut at) = (source.length()?, 0);
    let mut piece = vec![0; COPY_BYTES];
    loop {
        let read = read_full(&*source, &mut piece, at)?;
        if read == 0 {
            break;
        }
        if piece[..read].iter().any(|byte| *byte != 0) {
            write_all(&*copy, &piece[..read], at)?;
        }
        at += read as u64;
    }
    copy.set_len(bytes.max(at))?;
    copy.sync_all()
}
