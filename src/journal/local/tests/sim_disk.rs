//! A simulated disk in memory that fails on demand.
//!
//! It keeps written and synced bytes apart, for every file and for every directory. A power failure may lose all
//! unsynced bytes or any part of them, in units of 512 bytes. Names are lost in reverse order, as on a journaling file
//! system.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::sim_faults::Faults;
use super::sim_file::{SimFile, eio};
use crate::journal::local::{DirHandle, DirLock, FileHandle, FileSystem, QUARANTINE_DIR};

/// The unit in which a disk tears writes.
pub(super) const SECTOR_BYTES: usize = 512;

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub(super) struct SimDisk(pub(super) Arc<Shared>);

#[derive(Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) grown: Condvar,
    /// Notified of other faults, and of a sync that hangs.
    pub(super) changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) files: Vec<FileState>,
    pub(super) names: BTreeMap<PathBuf, usize>,
    pub(super) durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last sync of their directory.
    pub(super) pending_names: Vec<NameChange>,
    pub(super) faults: Faults,
    pub(super) calls: u64,
    pub(super) growths: u64,
    pub(super) syncs: u64,
    /// Syncs that hang.
    pub(super) hanging: u64,
    pub(super) read_bytes: u64,
}

#[derive(Clone, Default)]
pub(super) struct FileState {
    pub(super) cached: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) dirty: BTreeSet<usize>,
}

#[derive(Clone)]
pub(super) enum NameChange {
    Set(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

impl SimDisk {
    /// Replaces the faults.
    pub(super) fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
        self.0.changed.notify_all();
    }

    /// Waits until a sync hangs.
    pub(super) fn wait_for_hanging_sync(&self) {
        let mut state = self.lock();
        while state.hanging == 0 {
            state = self.0.changed.wait(state).unwrap();
        }
    }

    /// Calls so far.
    pub(super) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Syncs of segments so far. Those of spares and checkpoints are not counted: another thread makes them, at
    /// arbitrary times.
    pub(super) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Bytes read so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.lock().read_bytes
    }

    /// Removes every fault, and waits until a file has grown.
    pub(super) fn heal_and_wait_for_growth(&self) {
        let mut state = self.lock();
        state.faults = Faults::default();
        let before = state.growths;
        while state.growths == before {
            state = self.0.grown.wait(state).unwrap();
        }
    }

    /// The disk after a power failure, without faults: `survives` decides about each unsynced sector and each unsynced
    /// change of a name.
    pub(super) fn power_cycle(&self, mut survives: impl FnMut() -> bool) -> Self {
        let old = self.lock();
        let mut names = old.durable_names.clone();
        for change in &old.pending_names {
            // Names survive in their order: the first that is lost takes the others with it.
            if !survives() {
                break;
            }
            change.apply(&mut names);
        }
        let files = old.files.iter().map(|file| file.after_power_loss(&mut survives)).collect();
        Self::with_files(files, names)
    }

    /// The disk as another process would find it now: unsynced bytes may still be lost.
    pub(super) fn copy(&self) -> Self {
        let old = self.lock();
        Self::with_files(old.files.clone(), old.names.clone())
    }

    /// The disk after the process was killed: nothing is lost, and nothing more is durable than before.
    pub(super) fn process_crash(&self) -> Self {
        let old = self.lock();
        let disk = Self::with_files(old.files.clone(), old.names.clone());
        let mut state = disk.lock();
        state.durable_names.clone_from(&old.durable_names);
        state.pending_names.clone_from(&old.pending_names);
        drop(state);
        disk
    }

    /// Lets no file and no directory be opened, or lets them again.
    pub(super) fn set_no_descriptors(&self, no_descriptors: bool) {
        self.lock().faults.no_descriptors = no_descriptors;
    }

    fn with_files(files: Vec<FileState>, names: BTreeMap<PathBuf, usize>) -> Self {
        let disk = Self::default();
        let mut state = disk.lock();
        state.files = files;
        state.durable_names = names.clone();
        state.names = names;
        drop(state);
        disk
    }

    /// The files whose names end with `suffix`, in order, with their contents.
    pub(super) fn files(&self, suffix: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.lock();
        let named = state.names.iter().filter(|(path, _)| path.to_str().unwrap().ends_with(suffix));
        named.map(|(path, file)| (path.clone(), state.files[*file].cached.clone())).collect()
    }

    /// Replaces a file, durably; `None` removes it.
    pub(super) fn put(&self, path: &Path, bytes: Option<Vec<u8>>) {
        let mut state = self.lock();
        if let Some(bytes) = bytes {
            state.files.push(FileState::synced(bytes));
            let file = state.files.len() - 1;
            state.names.insert(path.to_owned(), file);
        } else {
            state.names.remove(path);
        }
        state.durable_names = state.names.clone();
    }

    /// Flips every bit of one byte, on the disk and in the cache.
    pub(super) fn flip(&self, path: &Path, at: usize) {
        let mut state = self.lock();
        let file = state.names[path];
        state.files[file].cached[at] ^= 0xff;
        state.files[file].durable[at] ^= 0xff;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Locks the state for one call to the disk.
    pub(super) fn call(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.lock();
        state.calls += 1;
        if state.faults.power_fails_at.is_some_and(|at| state.calls >= at) {
            return Err(io::Error::other("the power is gone"));
        }
        Ok(state)
    }

    /// The same, for a call that opens something.
    fn opening_call(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.call()?;
        if state.faults.no_descriptors {
            return Err(io::Error::from_raw_os_error(24));
        }
        Ok(state)
    }

    fn file(&self, path: &Path, file: usize) -> Arc<dyn FileHandle> {
        let is_segment = path.to_str().unwrap().contains("spare") || is_segment(path);
        Arc::new(SimFile { disk: self.clone(), file, is_segment })
    }
}

pub(super) fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "segment")
}

impl FileState {
    fn synced(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), cached: bytes, dirty: BTreeSet::new() }
    }

    fn after_power_loss(&self, survives: &mut impl FnMut() -> bool) -> Self {
        let mut bytes = self.durable.clone();
        if self.cached.len() != bytes.len() && survives() {
            bytes.resize(self.cached.len(), 0);
        }
        for sector in &self.dirty {
            let start = (sector * SECTOR_BYTES).min(bytes.len()).min(self.cached.len());
            let end = (start + SECTOR_BYTES).min(bytes.len()).min(self.cached.len());
            if survives() {
                bytes[start..end].copy_from_slice(&self.cached[start..end]);
            }
        }
        Self::synced(bytes)
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Set(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Rename(from, to, file) => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl State {
    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }
}

impl FileSystem for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        self.call().map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.call()?;
        if state.faults.unlisted_quarantine && dir.ends_with(QUARANTINE_DIR) {
            return Err(eio());
        }
        let inside = state.names.keys().filter_map(|path| path.strip_prefix(dir).ok());
        let names = inside.filter_map(|path| path.iter().next()?.to_str()).map(str::to_owned);
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let state = self.opening_call()?;
        if state.faults.unopenable.as_deref() == Some(path) {
            return Err(eio());
        }
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(path, file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut state = self.opening_call()?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.push(FileState::default());
        let file = state.files.len() - 1;
        state.change_name(NameChange::Set(path.to_owned(), file));
        Ok(self.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        if state.faults.no_memory {
            return Err(io::Error::from_raw_os_error(12));
        }
        if state.faults.failing_names || (state.faults.failing_frees && is_segment(from)) {
            return Err(eio());
        }
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        assert!(!state.names.contains_key(to), "a rename must not replace {}", to.display());
        state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.call()?;
        if state.faults.failing_names {
            return Err(eio());
        }
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DirHandle>> {
        assert!(dir.is_absolute());
        // Not a call of its own: the calls of a test are counted.
        if self.lock().faults.no_descriptors {
            return Err(io::Error::from_raw_os_error(24));
        }
        Ok(Arc::new(SimDir(self.clone())))
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        // Not a call of its own: the calls of a test are counted.
        Ok(self.lock().faults.free_bytes.unwrap_or(u64::MAX))
    }

    fn lock(&self, _dir: &Path) -> io::Result<Arc<dyn DirLock>> {
        self.call().map(drop)?;
        Ok(Arc::new(SimLock(self.clone())))
    }
}

struct SimDir(SimDisk);

impl DirHandle for SimDir {
    /// A sync of one directory commits the file system's journal, and with it every name.
    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.call()?;
        if state.faults.failing_dir_syncs {
            return Err(eio());
        }
        state.durable_names = state.names.clone();
        state.pending_names.clear();
        Ok(())
    }
}

struct SimLock(SimDisk);

impl DirLock for SimLock {
    fn is_held(&self) -> bool {
        !self.0.lock().faults.lock_is_lost
    }
}
