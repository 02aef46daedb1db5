//! The registration of this server in the store, and the end of its earlier runs.
//!
//! Each run has an id of its own, which its leases carry. It is registered beside the id of the journal and updates a
//! heartbeat. At the start, and with every heartbeat, the other runs of the same journal are looked at: the leases of
//! those that have ended are released, so that a restart sends at once what the run before was about to send.
//!
//! # Which runs have ended
//! A copy of a data directory, started beside the original, has the same journal id and a lock of its own. So the
//! lock alone proves nothing about another run. A run has ended when
//! - the store is a SQLite file, which belongs to whoever holds the journal beside it, and both lie where they lay: of
//!   two that were moved or copied the log says so, and leases in them lapse by themselves;
//! - its journal lay in the very directory that this run has locked: the same device and inode, under the same boot of
//!   the system, so that the lock it held is the one we hold;
//! - or its heartbeat is stale, as after the data directory has moved to another host.
//!
//! Any other run is left alone. Once its heartbeat advances, it is a server on a copy, which the log names.
//! The copy of a whole running virtual machine, memory included, cannot be told from the original.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{InstanceId, Timestamp};
use crate::journal::JournalMetrics;
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::{OtherServer, ServerRow, Store, StoreError};

/// The time between two heartbeats. The store takes a server without one for six times as long as ended.
const INTERVAL: Duration = Duration::from_secs(5);
/// The file in which earlier versions kept the server's id.
const OLD_FILE_NAME: &str = "instance";
/// Tells one boot of the system from another. Containers of one host share it.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The server's id or the directory of its journal cannot be determined.
#[derive(Debug, thiserror::Error)]
#[error("cannot identify the server by {}: {source}", path.display())]
pub struct IdentityError {
    path: PathBuf,
    source: io::Error,
}

/// This run of the server, registered in its store.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    row: ServerRow,
    /// The file of earlier versions, where there is one.
    old_file: PathBuf,
}

impl Registration {
    /// A new run on the journal of this id, whose lock is held.
    pub(super) fn new(
        data_dir: &Path,
        journal_dir: &Path,
        journal_id: u64,
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError { path: journal_dir.to_owned(), source };
        let id = getrandom::u64().map_err(|error| failed(io::Error::other(error)))?;
        let row = ServerRow {
            id: InstanceId::new(id),
            journal_id,
            directory: directory_id(journal_dir).map_err(failed)?,
            host: read_line(HOST_NAME).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION"),
            started_at: now,
        };
        Ok(Self { row, old_file: data_dir.join(OLD_FILE_NAME) })
    }

    /// The id of this run.
    pub(super) const fn id(&self) -> InstanceId {
        self.row.id
    }

    /// Registers the run and releases what earlier runs left. Returns the other runs that have not ended.
    pub(super) async fn beat(
        &self,
        store: &Store,
        now: Timestamp,
    ) -> Result<BeatReport, StoreError> {
        let system = store.system();
        system.beat(&self.row, now).await?;
        let mut report = BeatReport::default();
        for other in system.other_servers(&self.row).await? {
            if !system.is_shared() && self.is_elsewhere(&other) {
                // A copy releases nothing: what its original was sending may be sent still.
                system.remove_server(other.id).await?;
                report.moved_from.push(other);
            } else if other.has_ended || self.has_its_lock(&other) {
                report.released += system.release_leases(other.id, now).await?;
                system.remove_server(other.id).await?;
            } else {
                report.others.push(other);
            }
        }
        Ok(report)
    }

    /// Releases the leases of the version before, which kept one id in a file, and removes the file.
    pub(super) async fn release_old(
        &self,
        store: &Store,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let text = std::fs::read_to_string(&self.old_file).unwrap_or_default();
        let Ok(id) = u64::from_str_radix(text.trim(), 16) else { return Ok(0) };
        let released = store.system().release_leases(InstanceId::new(id), now).await?;
        if let Err(error) = std::fs::remove_file(&self.old_file) {
            tracing::warn!(file = %self.old_file.display(), %error, "cannot remove the file of an earlier version");
        }
        Ok(released)
    }

    /// Removes the registration, after a stop in good order.
    pub(super) async fn end(&self, store: &Store) -> Result<(), StoreError> {
        store.system().remove_server(self.row.id).await.map(drop)
    }

    /// Whether the other run's journal lay in another directory. Devices have other numbers after a boot; the host's name
    /// and the directory's inode stay.
    fn is_elsewhere(&self, other: &OtherServer) -> bool {
        let (Some((boot, place)), Some((other_boot, other_place))) =
            (self.row.directory.split_once(' '), other.directory.split_once(' '))
        else {
            return false;
        };
        let inode = |place: &str| place.split_once(' ').map(|(_, inode)| inode.to_owned());
        if boot == other_boot {
            place != other_place
        } else {
            inode(place) != inode(other_place) || self.row.host != other.host
        }
    }

    fn has_its_lock(&self, other: &OtherServer) -> bool {
        !self.row.directory.is_empty() && self.row.directory == other.directory
    }
}

/// The result of a heartbeat.
#[derive(Default)]
pub(super) struct BeatReport {
    /// Deliveries of ended runs that are due again.
    pub(super) released: u64,
    /// Runs of this journal that have not ended, or not yet.
    others: Vec<OtherServer>,
    /// On SQLite, runs that did not stop in good order and had their data directory elsewhere.
    moved_from: Vec<OtherServer>,
}

impl BeatReport {
    /// Says in the log from which server the data directory was moved or copied.
    pub(super) fn log_move(&self) {
        for OtherServer { host, .. } in &self.moved_from {
            tracing::warn!(
                host,
                "this data directory was moved or copied from a server that had not stopped; if that one still runs, \
                 both send what was waiting. Its deliveries in flight are tried again when their leases lapse"
            );
        }
    }
}

/// The background task that updates the heartbeat.
pub(super) struct RegistrationTask {
    pub(super) registration: Registration,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<JournalMetrics>,
    /// Wakes the dispatcher.
    pub(super) due: Wake,
}

impl RegistrationTask {
    /// Works until the soft stop. A SQLite file has no other server, so nobody looks at heartbeats.
    pub(super) async fn run(self, shutdown: Shutdown) {
        if !self.store.system().is_shared() {
            shutdown.requested().await;
            return;
        }
        let mut seen = BTreeMap::new();
        loop {
            if let Err(error) = self.run_once(&mut seen).await {
                tracing::debug!(%error, "cannot update the server's heartbeat");
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn run_once(&self, seen: &mut BTreeMap<u64, Seen>) -> Result<(), StoreError> {
        let report = self.registration.beat(&self.store, self.clock.schedule()).await?;
        if report.released > 0 {
            let released = report.released;
            tracing::info!(released, "recovered leased deliveries of a server that has ended");
            self.due.wake();
        }
        seen.retain(|id, _| report.others.iter().any(|other| other.id.get() == *id));
        for other in &report.others {
            let first = Seen { heartbeat_at: other.heartbeat_at, is_named: false };
            let known = seen.entry(other.id.get()).or_insert(first);
            if known.heartbeat_at != other.heartbeat_at && !known.is_named {
                known.is_named = true;
                let OtherServer { id, host, .. } = other;
                tracing::error!(
                    host,
                    server = format!("{:016x}", id.get()),
                    "another server runs on a copy of this data directory with the same database; \
                     give each its own DATA_DIR, empty at its first start"
                );
            }
        }
        let copies = seen.values().filter(|seen| seen.is_named).count();
        self.metrics.hookgate_data_dir_copies.set(i64::try_from(copies).unwrap_or(i64::MAX));
        Ok(())
    }
}

/// Another run, as it was first seen.
struct Seen {
    heartbeat_at: Timestamp,
    /// Whether the log has named it.
    is_named: bool,
}

/// Tells the directory from every other one that exists; empty where the system does not tell one boot from another.
fn directory_id(dir: &Path) -> io::Result<String> {
    let metadata = std::fs::metadata(dir)?;
    let boot = read_line(BOOT_ID).unwrap_or_default();
    if boot.is_empty() {
        return Ok(boot);
    }
    Ok(format!("{boot} {} {}", metadata.dev(), metadata.ino()))
}

fn read_line(path: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_in(dir: &Path) -> Registration {
        Registration::new(dir, dir, 7, Timestamp::from_micros(1)).unwrap()
    }

    #[test]
    fn runs_in_one_directory_share_its_identity_and_have_ids_of_their_own() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [one, again, copy] = [&dirs[0], &dirs[0], &dirs[1]].map(|dir| run_in(dir.path()).row);
        assert_eq!(one.directory, again.directory);
        assert_ne!(one.directory, copy.directory);
        assert_ne!(one.id, again.id);
    }
}
