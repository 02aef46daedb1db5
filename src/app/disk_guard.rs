//! Guards the free space of the disks that this server writes to: it warns, and then has ingest take no events, before
//! SQLite or the journal cannot write.
//!
//! PostgreSQL's disks are not this server's: with `DATABASE_URL`, the journal's alone is looked at. What was accepted is
//! stored and delivered all the same, and retention goes on, which may make room; then events are taken again.

use std::path::PathBuf;
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
    directories: Vec<PathBuf>,
    space: DiskSpace,
    metrics: Arc<StoreMetrics>,
}

impl DiskGuard {
    /// A guard that has looked once.
    pub(super) fn new(config: DiskConfig, store: &StoreConfig, metrics: Arc<StoreMetrics>) -> Self {
        let directories = directories(store);
        let guard = Self { config, directories, space: DiskSpace::default(), metrics };
        guard.note(free_bytes(&guard.directories));
        guard
    }

    /// What it finds.
    pub(super) fn space(&self) -> DiskSpace {
        self.space.clone()
    }

    /// Looks until the soft stop.
    pub(super) async fn run(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let directories = self.directories.clone();
            // A network file system may not answer for a while.
            if let Ok(free) = tokio::task::spawn_blocking(move || free_bytes(&directories)).await {
                self.note(free);
            }
        }
    }

    fn note(&self, free: Option<u64>) {
        let Some(free) = free else { return };
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

/// The directories whose disks are guarded.
pub(super) fn directories(store: &StoreConfig) -> Vec<PathBuf> {
    let sqlite = store.database_url.is_none().then(|| store.data_dir.clone());
    std::iter::once(store.journal_dir()).chain(sqlite).collect()
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

/// The least of the free bytes of these directories' file systems, for a user without privileges.
pub(super) fn free_bytes(directories: &[PathBuf]) -> Option<u64> {
    let free = |directory: &PathBuf| {
        let disk = rustix::fs::statvfs(directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    };
    directories.iter().filter_map(free).min()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
