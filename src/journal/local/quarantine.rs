//! Quarantine: damaged bytes, once synced and no longer readable, are reported, copied aside, and skipped.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::QUARANTINE_DIR;
use super::file_system::{FileHandle, FileSystem, read_full, write_all};

/// Bytes copied in one call.
const COPY_BYTES: u64 = 1024 * 1024;

/// A range of the journal that is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment with the damage. For a missing segment, the one before the gap or, at the beginning, the one
    /// behind it.
    pub file: PathBuf,
    /// The offset of the damage in the file, in bytes.
    pub offset: u64,
    /// Bytes that could not be read; 0 when they are missing altogether.
    pub bytes: u64,
    /// The seqs of the lost records. Empty when only the segment's header is damaged, which costs no record.
    pub seqs: Range<u64>,
    /// The copy of the bytes, for an expert to inspect.
    pub quarantined: Option<PathBuf>,
}

/// Reports damage in `file`, the segment called `name`, and copies its bytes to quarantine. An existing copy is kept
/// as it is.
pub(super) fn quarantine(
    fs: &dyn FileSystem,
    dir: &Path,
    (name, file): (&str, &dyn FileHandle),
    bytes: Range<u64>,
    seqs: Range<u64>,
) -> io::Result<Damage> {
    let quarantined = if bytes.is_empty() {
        None
    } else {
        let quarantine_dir = dir.join(QUARANTINE_DIR);
        fs.create_dir(&quarantine_dir)?;
        let path = quarantine_dir.join(format!("{name}-{}", bytes.start));
        match fs.create(&path) {
            Ok(copy) => {
                let copied = copy_range(file, &*copy, bytes.clone()).and_then(|()| copy.sync_all());
                if let Err(error) = copied.and_then(|()| fs.sync_dir(&quarantine_dir)) {
                    // The next try must not take a part for the whole.
                    let _ = fs.remove(&path);
                    return Err(error);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Some(path)
    };
    let damage = Damage {
        file: dir.join(name),
        offset: bytes.start,
        bytes: bytes.end.saturating_sub(bytes.start),
        seqs,
        quarantined,
    };
    damage.log();
    Ok(damage)
}

/// Moves a whole file to quarantine, because the journal needs its name.
pub(super) fn quarantine_file(fs: &dyn FileSystem, dir: &Path, name: &str) -> io::Result<()> {
    let quarantine_dir = dir.join(QUARANTINE_DIR);
    fs.create_dir(&quarantine_dir)?;
    fs.rename(&dir.join(name), &quarantine_dir.join(name))?;
    fs.sync_dir(&quarantine_dir)?;
    fs.sync_dir(dir)
}

impl Damage {
    /// Logs the damage.
    pub(super) fn log(&self) {
        tracing::error!(
            file = %self.file.display(),
            offset = self.offset,
            bytes = self.bytes,
            first_seq = self.seqs.start,
            records_lost = self.seqs.end - self.seqs.start,
            quarantined = ?self.quarantined,
            "the journal is damaged, skipping the damaged records"
        );
    }
}

fn copy_range(from: &dyn FileHandle, to: &dyn FileHandle, bytes: Range<u64>) -> io::Result<()> {
    let mut at = bytes.start;
    while at < bytes.end {
        let wanted = (bytes.end - at).min(COPY_BYTES);
        let mut piece = vec![0; usize::try_from(wanted).unwrap_or(0)];
        let read = read_full(from, &mut piece, at)?;
        if read == 0 {
            break;
        }
        write_all(to, &piece[..read], at - bytes.start)?;
        at += read as u64;
    }
    Ok(())
}
