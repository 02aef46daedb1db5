//! Copies the records of a journal that wait to a new journal, beside a server that has it open.
//!
//! Segments are copied first and the checkpoint is read last. A segment is freed, and its file used again, only once a
//! checkpoint behind its last record is durable. So each copy is whole, or all of its records are below that
//! checkpoint: then they are in a store that is copied later, and the copy is left out.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::JournalError;
use super::checkpoint::CheckpointFile;
use super::file_system::{FileSystem, is_unreadable, read_full, read_past_damage, write_all};
use super::format::{Checkpoint, JournalId, SEGMENT_HEADER_BYTES};
use super::frame_scan::{Found, Frames};
use super::journal_records::{JournalExtent, extent};
use super::listing::Listing;

/// Bytes copied in one call.
const COPY_BYTES: usize = 1024 * 1024;

/// A copy of a journal.
#[derive(Clone, Debug)]
pub struct JournalBackup {
    /// What it holds.
    pub extent: JournalExtent,
    /// The names of the segments with bytes that could not be read.
    pub damaged_segments: Vec<String>,
}

/// Copies what waits in the journal of `dir` to a new journal in `to`. Every record that was durable before the call is
/// in the copy, or below its `stored_below`, unless the disk cannot return it: that is damage in the copy, as it is
/// for a server.
///
/// # Errors
/// When there is no journal, or it cannot be read or copied.
pub fn back_up(fs: &dyn FileSystem, dir: &Path, to: &Path) -> Result<JournalBackup, JournalError> {
    let failed = |error| JournalError::io("copy", dir, error);
    let before = checkpoint_of(fs, dir)?;
    let listing = Listing::new(fs.list(dir).map_err(failed)?);
    let of_journal = listing.segments.into_iter().filter(|(_, id, _)| *id == before.id);
    let segments: Vec<_> = of_journal.map(|(first_seq, _, name)| (first_seq, name)).collect();
    fs.create_dir(to).map_err(|error| JournalError::io("create", to, error))?;
    let (mut copied, mut damaged_segments) = (Vec::new(), Vec::new());
    for (first_seq, name) in &segments {
        match copy(fs, &dir.join(name), &to.join(name)) {
            Ok(Copied { is_damaged }) => {
                copied.push((*first_seq, name));
                damaged_segments.extend(is_damaged.then(|| name.clone()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(JournalError::io("copy", &dir.join(name), error)),
        }
    }
    // Where bytes could not be read, records behind them are kept.
    let last = copied.last().filter(|(_, name)| !damaged_segments.contains(name));
    if let Some((first_seq, name)) = last {
        let written = (before.id, *first_seq);
        let cut = cut_at_hole(fs, written, &dir.join(name), &to.join(name));
        cut.map_err(|error| JournalError::io("copy", &dir.join(name), error))?;
    }
    let after = checkpoint_of(fs, dir)?;
    for (index, (first_seq, name)) in segments.iter().enumerate() {
        let next = segments.get(index + 1).map(|(next, _)| *next);
        let is_stored = next.is_some_and(|next| next <= after.acked);
        let is_copied = copied.iter().any(|(copied, _)| copied == first_seq);
        if is_copied && is_stored {
            fs.remove(&to.join(name)).map_err(failed)?;
            damaged_segments.retain(|damaged| damaged != name);
        } else if !is_copied && !is_stored && (next.is_some() || after.acked <= *first_seq) {
            return Err(JournalError::Changed { dir: dir.to_owned() });
        }
    }
    let copy_failed = |error| JournalError::io("write", to, error);
    let (mut checkpoint, _) = CheckpointFile::open(fs, to).map_err(copy_failed)?;
    checkpoint.write(Checkpoint { synced: after.acked, ..after }).map_err(copy_failed)?;
    fs.sync_dir(to).map_err(copy_failed)?;
    Ok(JournalBackup { extent: extent(fs, to)?, damaged_segments })
}

fn checkpoint_of(fs: &dyn FileSystem, dir: &Path) -> Result<Checkpoint, JournalError> {
    let failed = |error| JournalError::io("read the checkpoint of", dir, error);
    let checkpoint = CheckpointFile::read(fs, dir).map_err(failed)?;
    checkpoint.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
}

/// A file that was copied.
struct Copied {
    /// Whether some bytes could not be read.
    is_damaged: bool,
}

/// Copies a file, durably. Zeros, as at the end of a preallocated one, become a hole.
fn copy(fs: &dyn FileSystem, from: &Path, to: &Path) -> io::Result<Copied> {
    let source = fs.open(from)?;
    let copy = fs.create(to)?;
    let (bytes, mut at) = (source.length()?, 0);
    let (mut piece, mut is_damaged) = (vec![0; COPY_BYTES], false);
    loop {
        let read = match read_full(&*source, &mut piece, at) {
            Err(error) if is_unreadable(&error) => {
                is_damaged = true;
                read_past_damage(&*source, &mut piece, at)?
            }
            read => read?,
        };
        if read == 0 {
            break;
        }
        if piece[..read].iter().any(|byte| *byte != 0) {
            write_all(&*copy, &piece[..read], at)?;
        }
        at += read as u64;
    }
    copy.set_len(bytes.max(at))?;
    copy.sync_all()?;
    Ok(Copied { is_damaged })
}

/// Cuts the copy of a segment that was written meanwhile where it lacks a record that the segment has. A group that was
/// written while the piece that holds its beginning had been read, and the next one had not, leaves such a hole, with
/// later groups behind it, which would be taken for damage. All of them were written after the copy was begun.
fn cut_at_hole(
    fs: &dyn FileSystem,
    (id, first_seq): (JournalId, u64),
    from: &Path,
    to: &Path,
) -> io::Result<()> {
    let copy = fs.open(to)?;
    let bytes = copy.length()?;
    let mut frames = Frames::new(Arc::clone(&copy), id, SEGMENT_HEADER_BYTES);
    let mut seq = first_seq;
    while matches!(frames.read(seq, bytes)?, Found::Frame(..)) {
        seq += 1;
    }
    let at = frames.position();
    let segment = match fs.open(from) {
        // Stored and freed by now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        segment => segment?,
    };
    let behind = segment.length()?;
    if matches!(Frames::new(segment, id, at).read(seq, behind)?, Found::Frame(..)) {
        copy.set_len(at)?;
        copy.set_len(bytes)?;
        copy.sync_all()?;
    }
    Ok(())
}
