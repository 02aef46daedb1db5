//! Guards the free space of the disks that this server writes to: it warns, and then has ingest take no events, before
//! SQLite or the journal cannot write.
//!
//! PostgreSQL's disks are not this server's: with `DATABASE_URL`, the journal's alone is looked at. What was accepted is
//! stored and delivered all the same, and retention goes on, which may make room; then events are taken again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::config::{DiskConfig, StoreConfig};
use crate::runtime::{DiskLevel, DiskSpace, Shutdown};
use crate::store::StoreMetrics;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Events are taken again once this part of `DISK_FREE_MIN_MIB` is free beyond it.
const MARGIN: u64 = 8;

/// Guards the free space.
pub(super) struct DiskGuard {
    config: DiskConfig,
    journal: PathBuf,
    /// The directory of the SQLite file, if there is one.
    sqlite: Option<PathBuf>,
    /// The space of the disk that has the least.
    space: DiskSpace,
    /// The space of the disk of the SQLite file.
    sqlite_space: DiskSpace,
    metrics: Arc<StoreMetrics>,
}

impl DiskGuard {
    /// A guard that has looked once.
    pub(super) fn new(config: DiskConfig, store: &StoreConfig, metrics: Arc<StoreMetrics>) -> Self {
        let (journal, sqlite) = (store.journal_dir(), sqlite_dir(store));
        let (space, sqlite_space) = <(DiskSpace, DiskSpace)>::default();
        let guard = Self { config, journal, sqlite, space, sqlite_space, metrics };
        guard.note(DisksFree::of(&guard.journal, guard.sqlite.as_deref()));
        guard
    }

    /// What it finds: of the disk that has the least.
    pub(super) fn space(&self) -> DiskSpace {
        self.space.clone()
    }

    /// What it finds of the disk of the SQLite file. It stays as it is without one.
    pub(super) fn sqlite_space(&self) -> DiskSpace {
        self.sqlite_space.clone()
    }

    /// Looks until the soft stop.
    pub(super) async fn run(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let (journal, sqlite) = (self.journal.clone(), self.sqlite.clone());
            let look = move || DisksFree::of(&journal, sqlite.as_deref());
            // A network file system may not answer for a while.
            if let Ok(free) = tokio::task::spawn_blocking(look).await {
                self.note(free);
            }
        }
    }

    fn note(&self, free: DisksFree) {
        if let Some(free) = free.sqlite {
            let before = self.sqlite_space.level();
            self.sqlite_space.set(level(&self.config, before, free), free);
        }
        let Some(free) = free.least() else { return };
        let before = self.space.level();
        let now = level(&self.config, before, free);
        self.space.set(now, free);
        self.metrics.hookgate_disk_free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        if now == before {
            return;
        }
        match now {
            DiskLevel::Full => tracing::error!(
                free_bytes = free,
                "too little disk space is free: no events are taken; make room or lower DISK_FREE_MIN_MIB"
            ),
            DiskLevel::Low => tracing::warn!(
                free_bytes = free,
                "little disk space is free: events are refused below DISK_FREE_MIN_MIB"
            ),
            DiskLevel::Ok => tracing::info!(free_bytes = free, "enough disk space is free again"),
        }
    }
}

/// Free bytes of the disks, as far as they are known.
#[derive(Clone, Copy)]
struct DisksFree {
    journal: Option<u64>,
    sqlite: Option<u64>,
}

impl DisksFree {
    fn of(journal: &Path, sqlite: Option<&Path>) -> Self {
        Self { journal: free_bytes_of(journal), sqlite: sqlite.and_then(free_bytes_of) }
    }

    fn least(self) -> Option<u64> {
        [self.journal, self.sqlite].into_iter().flatten().min()
    }
}

/// The directories whose disks are guarded.
pub(super) fn directories(store: &StoreConfig) -> Vec<PathBuf> {
    std::iter::once(store.journal_dir()).chain(sqlite_dir(store)).collect()
}

fn sqlite_dir(store: &StoreConfig) -> Option<PathBuf> {
    store.database_url.is_none().then(|| store.data_dir.clone())
}

/// What this many free bytes allow.
fn level(config: &DiskConfig, before: DiskLevel, free: u64) -> DiskLevel {
    let (warn, min) = (config.warn_bytes(), config.min_bytes());
    let margin = if before == DiskLevel::Full { min / MARGIN } else { 0 };
    if free < min.saturating_add(margin) {
        DiskLevel::Full
    } else if free < warn {
        DiskLevel::Low
    } else {
        DiskLevel::Ok
    }
}

/// The least of the free bytes of these directories' file systems.
pub(super) fn free_bytes(directories: &[PathBuf]) -> Option<u64> {
    directories.iter().filter_map(|directory| free_bytes_of(directory)).min()
}

/// The free bytes of a directory's file system, for a user without privileges.
fn free_bytes_of(directory: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Registry;

    #[test]
    fn level_follows_the_free_space_and_leaves_full_with_a_margin() {
        let config = DiskConfig { disk_free_warn_mib: 100, disk_free_min_mib: 16 };
        let of = |before, mib: u64| level(&config, before, mib << 20);
        assert_eq!(of(DiskLevel::Ok, 100), DiskLevel::Ok);
        assert_eq!(of(DiskLevel::Ok, 99), DiskLevel::Low);
        assert_eq!(of(DiskLevel::Low, 16), DiskLevel::Low);
        assert_eq!(of(DiskLevel::Low, 15), DiskLevel::Full);
        assert_eq!(of(DiskLevel::Full, 17), DiskLevel::Full);
        assert_eq!(of(DiskLevel::Full, 18), DiskLevel::Low);
        assert_eq!(of(DiskLevel::Full, 100), DiskLevel::Ok);
        let off = DiskConfig { disk_free_warn_mib: 0, disk_free_min_mib: 0 };
        assert_eq!(level(&off, DiskLevel::Ok, 0), DiskLevel::Ok);
    }

    #[test]
    fn level_of_the_sqlite_file_is_that_of_its_own_disk() {
        let directory = tempfile::tempdir().unwrap();
        let config = DiskConfig { disk_free_warn_mib: 100, disk_free_min_mib: 16 };
        let store = StoreConfig::in_directory(directory.path());
        let metrics = StoreMetrics::register(&Registry::new()).unwrap();
        let guard = DiskGuard::new(config, &store, metrics);
        let noted = |journal: u64, sqlite: u64| {
            guard.note(DisksFree { journal: Some(journal << 20), sqlite: Some(sqlite << 20) });
            (guard.space().level(), guard.sqlite_space().level())
        };
        assert_eq!(noted(15, 1_000), (DiskLevel::Full, DiskLevel::Ok));
        assert_eq!(noted(1_000, 50), (DiskLevel::Low, DiskLevel::Low));
        assert_eq!(noted(1_000, 1_000), (DiskLevel::Ok, DiskLevel::Ok));
    }
}
