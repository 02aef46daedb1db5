//! The copies in `damaged/`: bounded in number and bytes, and each of them whole.
//!
//! A copy is written and synced under another name first. So a file with the name of a copy is one, whenever the
//! process ends, and is not made again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::file_system::{FileHandle, FileSystem, is_shortage};

/// Most bytes of copies in `damaged/`.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Most copies in `damaged/`.
const FILES_MAX: u64 = 1_000;
/// Ends the name of a copy that is being written.
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// Makes and counts them.
pub(super) struct QuarantineCopies {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// `None` until they could be counted.
    held: Mutex<Option<CopiedFiles>>,
}

/// How many copies there are.
#[derive(Clone, Copy, Default)]
pub(super) struct CopiedFiles {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl CopiedFiles {
    pub(super) fn of(copies: &BTreeMap<String, u64>) -> Self {
        Self { files: copies.len() as u64, bytes: copies.values().sum() }
    }
}

impl QuarantineCopies {
    /// The copies in the directory `dir`.
    pub(super) fn new(fs: &Arc<dyn FileSystem>, dir: &Path) -> Self {
        Self { fs: Arc::clone(fs), dir: dir.to_owned(), held: Mutex::default() }
    }

    /// The copies with their lengths, 0 where one cannot be read. A missing directory has none.
    ///
    /// # Errors
    /// When the directory cannot be listed, or for want of file descriptors or memory.
    pub(super) fn list(&self) -> io::Result<BTreeMap<String, u64>> {
        let names = match self.fs.list(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let with_length = |name: String| {
            let length = self.fs.open(&self.dir.join(&name)).and_then(|file| file.length());
            match length {
                Err(error) if is_shortage(&error) => Err(error),
                length => Ok((name, length.unwrap_or_default())),
            }
        };
        let finished = names.into_iter().filter(|name| !name.ends_with(UNFINISHED_SUFFIX));
        finished.map(with_length).collect()
    }

    /// Makes a durable copy of `bytes` bytes. An existing copy is kept as it is. `None` when there is no space.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory.
    pub(super) fn make(
        &self,
        name: &str,
        bytes: u64,
        write: impl FnOnce(&dyn FileHandle) -> io::Result<()>,
    ) -> io::Result<Option<PathBuf>> {
        let mut counted = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(name);
        let made = self.exists(&path).and_then(|exists| {
            if exists {
                return Ok(true);
            }
            let held = match *counted {
                Some(held) => held,
                // Without its count it would grow without bounds.
                None => CopiedFiles::of(&self.list()?),
            };
            let held = counted.insert(held);
            if held.files >= FILES_MAX || held.bytes.saturating_add(bytes) > BYTES_MAX {
                tracing::error!(
                    file = name,
                    bytes,
                    "the journal's quarantine is full, bytes are not copied; move the files in `damaged/` away"
                );
                return Ok(false);
            }
            self.copy(name, &path, write)?;
            held.files += 1;
            held.bytes += bytes;
            Ok(true)
        });
        match made {
            Ok(is_made) => Ok(is_made.then_some(path)),
            Err(error) if is_shortage(&error) => Err(error),
            Err(error) => {
                tracing::error!(file = name, %error, "cannot quarantine bytes of the journal");
                Ok(None)
            }
        }
    }

    /// Whether there is a copy, which is durable then.
    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.fs.open(path) {
            Ok(_) => self.fs.sync_dir(&self.dir).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn copy(
        &self,
        name: &str,
        path: &Path,
        write: impl FnOnce(&dyn FileHandle) -> io::Result<()>,
    ) -> io::Result<()> {
        self.fs.create_dir(&self.dir)?;
        let unfinished = self.dir.join(format!("{name}{UNFINISHED_SUFFIX}"));
        let remove = |path: &Path| match self.fs.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        };
        // Of a process that was killed.
        remove(&unfinished)?;
        let copy = self.fs.create(&unfinished)?;
        let written = write(&*copy)
            .and_then(|()| copy.sync_all())
            .and_then(|()| self.fs.rename(&unfinished, path));
        written.inspect_err(|_| _ = remove(&unfinished))?;
        self.fs.sync_dir(&self.dir).inspect_err(|_| _ = remove(path))
    }
}
