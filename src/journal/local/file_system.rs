//! The seam between the journal and the file system: the few calls it makes, and nothing more.
//!
//! Real disks fail in ways that no test can provoke: a write that takes half the bytes, a sync that reports `EIO`,
//! a loss of power. The journal's tests put a simulated disk here that does all of that; everything else uses
//! [`SystemFiles`].

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

/// A file system.
pub trait FileSystem: Send + Sync {
    /// Creates a directory and its parents, durably; an existing one is no error.
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
    /// Locks a file until the lock is dropped, creating it if missing. `WouldBlock` when another process holds the
    /// lock.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;
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

/// A lock that is released when it is dropped.
pub trait FileLock: Send + Sync {}

/// The file system of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemFiles;

impl FileSystem for SystemFiles {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir_all(dir)?;
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            Some(_) | None => self.sync_dir(Path::new(".")),
        }
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

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let options = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = options?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl FileLock for File {}

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

/// Writes all of `bytes` at `offset`, repeating short and interrupted writes.
pub(super) fn write_all(file: &dyn FileHandle, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
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

/// Whether the error means that no space is left: a temporary condition.
pub(super) fn is_no_space(error: &io::Error) -> bool {
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
