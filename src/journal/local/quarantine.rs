//! Damage: what was synced once and cannot be read back. It is reported, kept aside, and passed by.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::DAMAGED_DIR;
use super::file_system::{Disk, DiskFile, read_full, write_all};

/// Bytes copied at once.
const COPY_BYTES: u64 = 1024 * 1024;

/// A stretch of the journal that is lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment it is in; for a segment that is missing, the one before the gap or, at the
    /// beginning, the one behind it.
    pub file: PathBuf,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// Bytes that could not be read; 0 when they are missing altogether.
    pub bytes: u64,
    /// The seqs of the records that are lost. Empty when it was only the segment's header, which
    /// costs no record.
    pub seqs: Range<u64>,
    /// Where the bytes were copied to, for an expert's eye.
    pub kept_aside: Option<PathBuf>,
}

/// Reports damage in `file`, the segment called `name`, and copies its bytes aside. A copy that is
/// there already is left as it is.
pub(super) fn keep_aside(
    disk: &dyn Disk,
    dir: &Path,
    (name, file): (&str, &dyn DiskFile),
    bytes: Range<u64>,
    seqs: Range<u64>,
) -> io::Result<Damage> {
    let kept_aside = if bytes.is_empty() {
        None
    } else {
        let aside = dir.join(DAMAGED_DIR);
        disk.create_dir(&aside)?;
        let path = aside.join(format!("{name}-{}", bytes.start));
        match disk.create(&path) {
            Ok(copy) => {
                copy_range(file, &*copy, bytes.clone())?;
                copy.sync_all()?;
                disk.sync_dir(&aside)?;
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
        kept_aside,
    };
    damage.log();
    Ok(damage)
}

impl Damage {
    /// Says it once in the log.
    pub(super) fn log(&self) {
        tracing::error!(
            file = %self.file.display(),
            offset = self.offset,
            bytes = self.bytes,
            first_seq = self.seqs.start,
            records_lost = self.seqs.end - self.seqs.start,
            kept_aside = ?self.kept_aside,
            "the journal is damaged; going on behind the damage"
        );
    }
}

fn copy_range(from: &dyn DiskFile, to: &dyn DiskFile, bytes: Range<u64>) -> io::Result<()> {
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
