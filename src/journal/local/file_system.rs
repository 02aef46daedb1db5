//! The seam between the journal and the file system: the few calls it makes, and nothing more.
//!
//! Real disks fail in ways that no test can provoke: a write that takes half the bytes, a sync that reports `EIO`,
//! a loss of power. The journal's tests put a simulated disk here that does all of that; everything else uses
//! [`SystemFiles`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::OLD_LOCK_NAME;

/// The unit in which unreadable bytes are skipped: a page of the page cache, which fails as a whole.
const PAGE_BYTES: u64 = 4096;
/// Stands for a byte that could not be read.
const UNREADABLE: u8 = 0xff;
/// How often unreadable bytes are read before they count as lost.
const READ_TRIES: u32 = 3;

/// A file system.
pub trait FileSystem: Send + Sync {
    /// Creates a directory and its missing parents, durably; an existing one is no error.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a directory, in no order. Names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;
    /// Creates an empty file; an existing one is an error.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;
    /// Renames a file, replacing one of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory survive power loss.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Opens a directory, so that later syncs of it need no file descriptor.
    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DirHandle>>;
    /// Bytes that may still be written to the disk of a directory.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Locks a directory until the lock is dropped. `WouldBlock` when another process holds the lock.
    fn lock(&self, dir: &Path) -> io::Result<Arc<dyn DirLock>>;
}

/// An open file.
pub trait FileHandle: Send + Sync {
    /// Writes some of the bytes at `offset` and returns how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Reads some bytes at `offset` and returns how many; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Makes the contents survive power loss, with the attributes needed to read them back.
    fn sync_data(&self) -> io::Result<()>;
    /// Makes the contents and every attribute survive power loss, a shorter length included.
    fn sync_all(&self) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// The length in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// An open directory.
pub trait DirHandle: Send + Sync {
    /// Makes the names in it survive power loss.
    fn sync(&self) -> io::Result<()>;
}

/// A lock on a directory that is released when it is dropped.
pub trait DirLock: Send + Sync {
    /// Whether the locked directory is still the one of that name. If not, another process may have locked its
    /// successor.
    fn is_held(&self) -> bool;
}

/// The file system of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl FileSystem for SystemFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        for ancestor in dir.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            if ancestor.try_exists()? {
                break;
            }
            missing.push(ancestor);
        }
        std::fs::create_dir_all(dir)?;
        for created in &missing {
            self.sync_dir(parent_of(created))?;
        }
        if missing.is_empty() {
            // A process that died before it synced may have created it. Not every parent may be read.
            let _ = self.sync_dir(parent_of(dir));
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DirHandle>> {
        Ok(Arc::new(File::open(dir)?))
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(dir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn lock(&self, dir: &Path) -> io::Result<Arc<dyn DirLock>> {
        let file = locked(File::open(dir)?)?;
        let old = match OpenOptions::new().write(true).open(dir.join(OLD_LOCK_NAME)) {
            Ok(old) => Some(locked(old)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Arc::new(LockedDir { file, dir: dir.to_owned(), _old: old }))
    }
}

fn locked(file: File) -> io::Result<File> {
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A directory that is locked through its own descriptor: there is no lock file that somebody could remove.
struct LockedDir {
    file: File,
    dir: PathBuf,
    /// The lock file that earlier versions lock, where they have left one.
    _old: Option<File>,
}

impl DirLock for LockedDir {
    fn is_held(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.dir)) {
            (Ok(locked), Ok(named)) => (locked.dev(), locked.ino()) == (named.dev(), named.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        }
    }
}

fn parent_of(dir: &Path) -> &Path {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

impl DirHandle for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

impl FileHandle for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        File::sync_all(self)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// A write that failed, possibly after some bytes.
#[derive(Debug)]
pub(super) struct WriteError {
    /// Whether any byte was written.
    pub(super) has_begun: bool,
    /// The cause.
    pub(super) source: io::Error,
}

/// Writes all of `bytes` at `offset`, repeating short and interrupted writes.
pub(super) fn write_all(file: &dyn FileHandle, bytes: &[u8], offset: u64) -> io::Result<()> {
    write_whole(file, bytes, offset).map_err(|error| error.source)
}

/// The same; the error tells whether any byte was written.
pub(super) fn write_whole(
    file: &dyn FileHandle,
    bytes: &[u8],
    offset: u64,
) -> Result<(), WriteError> {
    let mut written = 0;
    while written < bytes.len() {
        let source = match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(count) => {
                written += count;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => error,
        };
        return Err(WriteError { has_begun: written > 0, source });
    }
    Ok(())
}

/// Fills `buffer` from `offset`, up to the end of the file, and returns how many bytes it read.
pub(super) fn read_full(
    file: &dyn FileHandle,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Fills `buffer` like [`read_full`]. Pages that cannot be read become [`UNREADABLE`] bytes, which are no frame, so
/// they count as damage.
pub(super) fn read_past_damage(
    file: &dyn FileHandle,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    match read_full(file, buffer, offset) {
        Err(error) if is_unreadable(&error) => {}
        read => return read,
    }
    let mut read = 0;
    while read < buffer.len() {
        let at = offset + read as u64;
        let left_of_page = usize::try_from(PAGE_BYTES - at % PAGE_BYTES).unwrap_or(usize::MAX);
        let wanted = left_of_page.min(buffer.len() - read);
        let page = &mut buffer[read..read + wanted];
        let count = read_page(file, page, at)?;
        read += count;
        if count < wanted {
            break;
        }
    }
    Ok(read)
}

fn read_page(file: &dyn FileHandle, page: &mut [u8], at: u64) -> io::Result<usize> {
    match read_patiently(file, page, at) {
        Err(error) if is_unreadable(&error) => {
            page.fill(UNREADABLE);
            Ok(page.len())
        }
        read => read,
    }
}

/// Fills `buffer` like [`read_full`], and tries a few times.
pub(super) fn read_patiently(
    file: &dyn FileHandle,
    buffer: &mut [u8],
    offset: u64,
) -> io::Result<usize> {
    for _ in 1..READ_TRIES {
        match read_full(file, buffer, offset) {
            Err(error) if is_unreadable(&error) => {}
            read => return read,
        }
    }
    read_full(file, buffer, offset)
}

/// Whether the error means that the disk, or the file system's own check of it, cannot return the bytes.
pub(super) fn is_unreadable(error: &io::Error) -> bool {
    let errno = [
        Errno::IO,
        Errno::BADMSG,
        #[cfg(target_os = "linux")]
        Errno::UCLEAN,
    ];
    errno.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether the error means that no space is left: a temporary condition.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether the error means that the process or the system has no file descriptor or no memory left: a temporary
/// condition.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let errno = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    errno.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
