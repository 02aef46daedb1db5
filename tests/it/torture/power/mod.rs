//! A file system whose power can be cut, for the real server.
//!
//! This process serves it, and so must not map a file of it: it would hold its memory map and wait for itself.

mod disk;
mod fuse;
mod model;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, spawn_mount};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use super::Dice;
use crate::support::wait::until;
use disk::{Disk, Effect, Fault, Operation};
use fuse::Mounted;

/// An empty file system in memory, mounted on a directory until it is dropped.
pub(super) struct PowerDisk {
    mountpoint: PathBuf,
    disk: Arc<Mutex<Disk>>,
    session: Option<BackgroundSession>,
}

/// Copies of the SQLite file on such a file system.
#[derive(Clone)]
pub(super) struct Copies(Arc<Mutex<Disk>>);

impl Copies {
    /// The file with its log, as both are at one moment.
    pub(super) fn take(&self) -> TempDir {
        let copy = crate::support::temporary::directory();
        let disk = self.0.lock().unwrap();
        for name in ["hookgate.db", "hookgate.db-wal"] {
            if let Some(content) = disk.content(name) {
                std::fs::write(copy.path().join(name), content).unwrap();
            }
        }
        copy
    }
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").finish_non_exhaustive()
    }
}

type MakeFault = fn() -> Fault;

/// Faults that a server has to bear: which operation on which file, and what becomes of it.
pub(super) const FAULTS: [(&str, MakeFault); 14] = [
    ("a sync of the journal fails", || fail(Operation::Sync, ".segment", Errno::IO)),
    ("a write to the journal fails", || fail(Operation::Write, ".segment", Errno::IO)),
    ("a sync of SQLite's log fails", || fail(Operation::Sync, "-wal", Errno::IO)),
    ("a write to SQLite's log finds no space", || fail(Operation::Write, "-wal", Errno::NOSPC)),
    ("a write to the journal finds no space", || fail(Operation::Write, ".segment", Errno::NOSPC)),
    ("a sync of the journal's checkpoint fails", || fail(Operation::Sync, "checkpoint", Errno::IO)),
    ("a write to the checkpoint fails", || fail(Operation::Write, "checkpoint", Errno::IO)),
    ("a write to the checkpoint finds no space", || {
        fail(Operation::Write, "checkpoint", Errno::NOSPC)
    }),
    ("a sync of the checkpoint takes 2 s", || delay("checkpoint")),
    ("a sync of SQLite's file fails", || fail(Operation::Sync, "hookgate.db", Errno::IO)),
    ("a write to SQLite's file fails", || fail(Operation::Write, "hookgate.db", Errno::IO)),
    ("a write to SQLite's file finds no space", || {
        fail(Operation::Write, "hookgate.db", Errno::NOSPC)
    }),
    ("a sync of the journal takes 2 s", || delay(".segment")),
    ("a sync of SQLite's log takes 2 s", || delay("-wal")),
];

fn fail(operation: Operation, file: &'static str, error: Errno) -> Fault {
    Fault { operation, file, effect: Effect::Fail(error.raw_os_error()) }
}

fn delay(file: &'static str) -> Fault {
    let effect = Effect::Delay(Duration::from_secs(2));
    Fault { operation: Operation::Sync, file, effect }
}

/// A sync of the journal that does not end until the disk goes on.
pub(super) const HANG: Fault =
    Fault { operation: Operation::Sync, file: ".segment", effect: Effect::Hang };

impl PowerDisk {
    /// Mounts one. Panics where the system has no FUSE, or lets this user not mount.
    pub(super) fn mount(mountpoint: &Path, dice: &mut Dice) -> Self {
        let disk = Arc::new(Mutex::new(Disk::new(dice.split())));
        let mut mounted = Self { mountpoint: mountpoint.to_owned(), disk, session: None };
        mounted.mount_again();
        mounted
    }

    /// Cuts the power off and mounts what is left. Nothing may have a file open but a process that is about to end.
    pub(super) fn cut(&mut self, dice: &mut Dice) {
        tokio::task::block_in_place(|| {
            self.unmount();
            let left = self.disk().after_cut(dice);
            *self.disk() = left;
            self.mount_again();
        });
    }

    /// Copies of the SQLite file on it.
    pub(super) fn copies(&self) -> Copies {
        Copies(Arc::clone(&self.disk))
    }

    /// Waits until a fault has struck an operation of the server.
    pub(super) async fn strike(&self, fault: Fault) {
        self.disk().arm(fault);
        until("the fault strikes", async || !self.disk().is_armed()).await;
    }

    /// Ends what [`HANG`] made hang.
    pub(super) fn go_on(&self) {
        self.disk().go_on();
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap()
    }

    fn mount_again(&mut self) {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power-cut".to_owned())];
        config.n_threads = Some(2);
        let session = spawn_mount(Mounted(Arc::clone(&self.disk)), &self.mountpoint, &config);
        let session = session.unwrap_or_else(|error| {
            panic!(
                "cannot mount a FUSE file system: {error}. It needs /dev/fuse and root (or fusermount3 of the \
                 package fuse3); `scripts/test --without-system` leaves this test out"
            )
        });
        self.session = Some(session);
    }

    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        // Detached, since a connection to SQLite that is being closed may have files open for a moment.
        unmount(&self.mountpoint, UnmountFlags::DETACH).unwrap();
        // One of its threads may meet the end of the connection as an error.
        let _ = session.join();
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        // Not joined: while a test panics, a server may have files open still.
        let _ = unmount(&self.mountpoint, UnmountFlags::DETACH);
    }
}
