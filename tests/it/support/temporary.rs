//! Temporary directories of the tests, which do not outlive a test process that was killed by more than an hour or a
//! next run.

use std::fs;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use tempfile::{Builder, TempDir};

/// The name of a directory begins with one of these, and the number of its process.
const OF_TESTS: &str = "hookgate-test-";
const OF_POSTGRESQL: &str = "hookgate-pg-";
/// Younger ones may belong to a process that is ending.
const AGE_MIN: Duration = Duration::from_hours(1);

/// A new directory, removed when it is dropped.
pub(crate) fn directory() -> TempDir {
    new(OF_TESTS)
}

/// A new directory of a PostgreSQL, to be kept beyond this process, whose watchdog removes it.
pub(crate) fn of_postgresql() -> TempDir {
    new(OF_POSTGRESQL)
}

fn new(prefix: &str) -> TempDir {
    static SWEEP: Once = Once::new();
    SWEEP.call_once(sweep);
    Builder::new().prefix(&format!("{prefix}{}-", std::process::id())).tempdir().unwrap()
}

/// Removes what killed processes have left.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = [OF_TESTS, OF_POSTGRESQL].iter().find_map(|prefix| name.strip_prefix(prefix));
        let process = rest.and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        let age = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let is_old = age.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > AGE_MIN);
        if process.is_some_and(is_gone) && is_old {
            // A disk whose power could be cut may still be mounted on it, and another user's is not ours to remove.
            let _ = unmount(entry.path(), UnmountFlags::DETACH);
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_gone(process: u32) -> bool {
    !Path::new(&format!("/proc/{process}")).exists()
}
