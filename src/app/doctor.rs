//! Examines what a server of these settings would work with: settings, directory, disk, limits, store, clock, journal.
//!
//! It changes nothing and may run beside a server. Every part is examined, whatever the others have shown; a part that
//! cannot be examined has failed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::descriptors::DescriptorBudget;
use super::error::AppError;
use super::{builder, directory_mark, disk_guard, start_report, storage, wiring};
use crate::config::Config;
use crate::runtime::Clock;
use crate::store::{Schedule, Store, StoreMetrics};
use crate::telemetry::Registry;

/// Time for the store to answer.
const STORE_MAX: Duration = Duration::from_secs(10);

/// What is thought of one thing.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It is as it should be.
    Ok,
    /// A server runs with it; somebody should look at it.
    Warning,
    /// A server does not start with it, takes no events, or loses what it should keep.
    Failure,
}

/// What was found of one thing.
#[derive(Serialize, Debug)]
pub struct Finding {
    /// What was examined: `settings`, `directory`, `disk`, `limits`, `store`, `clock` or `journal`.
    pub subject: &'static str,
    /// What is thought of it.
    pub judgement: Judgement,
    /// What was found, and what to do about it.
    pub text: String,
}

/// Examines everything. `integrity` also has a SQLite file read whole.
pub async fn examine(config: &Config, integrity: bool) -> Vec<Finding> {
    let mut findings = settings(config).await;
    findings.push(directory(&config.store.data_dir));
    findings.extend(disk(config));
    findings.push(limits(config));
    findings.extend(store(config, integrity).await);
    findings.push(journal(config));
    findings
}

fn ok(subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { subject, judgement: Judgement::Ok, text: text.into() }
}

fn warning(subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { subject, judgement: Judgement::Warning, text: text.into() }
}

fn failure(subject: &'static str, text: impl Into<String>) -> Finding {
    Finding { subject, judgement: Judgement::Failure, text: text.into() }
}

async fn settings(config: &Config) -> Vec<Finding> {
    let checked = match builder::check(config) {
        Ok(_) => wiring::read_certificate(config).await.map(drop),
        Err(error) => Err(error),
    };
    let judged = match checked {
        Ok(()) => ok("settings", "valid"),
        Err(error) => failure("settings", error.to_string()),
    };
    let unsafe_ones = start_report::unsafe_settings(config);
    let warnings = unsafe_ones.into_iter().map(|text| warning("settings", text));
    std::iter::once(judged).chain(warnings).collect()
}

/// Whether files can be made in the data directory.
fn directory(data_dir: &Path) -> Finding {
    let shown = data_dir.display();
    match fs::metadata(data_dir) {
        Ok(metadata) if !metadata.is_dir() => {
            failure("directory", format!("{shown} is not a directory"))
        }
        Ok(_) => match try_file(data_dir) {
            Ok(()) => ok("directory", format!("files can be made in {shown}")),
            Err(error) => failure("directory", format!("cannot make a file in {shown}: {error}")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            warning("directory", format!("there is no {shown}; the first start makes it"))
        }
        Err(error) => failure("directory", format!("cannot look at {shown}: {error}")),
    }
}

fn try_file(directory: &Path) -> io::Result<()> {
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let file = fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    let synced = file.sync_all();
    fs::remove_file(&path)?;
    synced
}

fn disk(config: &Config) -> Option<Finding> {
    // Before the first start, the directories that those of the server are made in.
    let existing = |directory: PathBuf| {
        let found = directory.ancestors().find(|path| path.exists()).map(Path::to_owned);
        found.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("."))
    };
    let directories: Vec<_> =
        disk_guard::directories(&config.store).into_iter().map(existing).collect();
    let free = disk_guard::free_bytes(&directories)?;
    let mib = free / (1024 * 1024);
    let (warn, min) = (config.disk.warn_bytes(), config.disk.min_bytes());
    Some(if free < min {
        failure("disk", format!("{mib} MiB are free: no events are taken below DISK_FREE_MIN_MIB"))
    } else if free < warn {
        warning("disk", format!("{mib} MiB are free: less than DISK_FREE_WARN_MIB"))
    } else {
        ok("disk", format!("{mib} MiB are free"))
    })
}

fn limits(config: &Config) -> Finding {
    match DescriptorBudget::raise(config).shortage() {
        Some(text) => warning("limits", text),
        None => {
            ok("limits", "enough file descriptors for CONNECTIONS_MAX and DELIVERY_CONCURRENCY")
        }
    }
}

async fn store(config: &Config, integrity: bool) -> Vec<Finding> {
    let file = config.store.sqlite_path();
    if config.store.database_url.is_none() && !file.exists() {
        return vec![warning(
            "store",
            format!("there is no {}; the first start makes it", file.display()),
        )];
    }
    let opened = StoreMetrics::register(&Registry::new());
    let opening = async {
        let metrics = opened.map_err(|error| error.to_string())?;
        storage::open_store(&config.store, metrics).await.map_err(|error| error.to_string())
    };
    let store = match tokio::time::timeout(STORE_MAX, opening).await {
        Ok(Ok(store)) => store,
        Ok(Err(error)) => return vec![failure("store", error)],
        Err(_) => {
            return vec![failure("store", format!("no answer within {} s", STORE_MAX.as_secs()))];
        }
    };
    // Reading a file whole takes as long as it takes; the rest is a few statements.
    let limit = if integrity { Duration::MAX } else { STORE_MAX };
    let findings = tokio::time::timeout(limit, examine_store(config, &store, integrity)).await;
    store.close().await;
    findings.unwrap_or_else(|_| {
        vec![failure("store", format!("no answer within {} s", STORE_MAX.as_secs()))]
    })
}

/// What the start of a server refuses, in its order, and what it would do.
async fn examine_store(config: &Config, store: &Store, integrity: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(error) = require_right_one(config, store).await {
        return vec![failure("store", error.to_string())];
    }
    let missing = match store.migration_status().await {
        Ok(all) => all.iter().filter(|migration| !migration.applied).count(),
        Err(error) => return vec![failure("store", error.to_string())],
    };
    if missing > 0 {
        let text = format!("{missing} migrations are missing; the next start applies them");
        return vec![warning("store", text)];
    }
    findings.push(match storage::require_keys(store).await {
        Ok(()) => ok("store", "it answers, and has every migration and every key of its secrets"),
        Err(error) => failure("store", error.to_string()),
    });
    if integrity {
        findings.push(match store.damage().await {
            Ok(damage) if damage.is_empty() => ok("store", "no damage was found in it"),
            Ok(damage) => failure("store", format!("it is damaged: {}", damage.join("; "))),
            Err(error) => failure("store", error.to_string()),
        });
    }
    findings.push(clock(store).await);
    findings
}

/// Fails when it is not the store of these settings and of the journal in the data directory.
async fn require_right_one(config: &Config, store: &Store) -> Result<(), AppError> {
    store.require_utf8().await?;
    if !config.store.yes {
        store.require_own_tables().await?;
    }
    // What cannot be read of the journal is told with the journal.
    let Ok(Some(mark)) = directory_mark::of_directory(&config.store) else { return Ok(()) };
    match mark.check(store).await {
        Err(_) if config.journal.accept_older_store => Ok(()),
        checked => Ok(checked?),
    }
}

async fn clock(store: &Store) -> Finding {
    let clock = Clock::system();
    if let Err(error) = Schedule::look(store, &clock).await {
        return failure("clock", error.to_string());
    }
    let (here, there) = (clock.now(), clock.schedule());
    let apart = here.since(there).max(there.since(here));
    if apart > Schedule::APART_MAX {
        let text = format!(
            "it is {here} here and {there} by the store; retries follow the store, new events this clock"
        );
        return warning("clock", text);
    }
    ok("clock", "it agrees with the store's to a few seconds")
}

fn journal(config: &Config) -> Finding {
    let directory = config.store.journal_dir();
    if !directory.exists() {
        return warning(
            "journal",
            format!("there is no {}; the first start makes it", directory.display()),
        );
    }
    let server = if storage::journal_is_in_use(&config.store) {
        "a server works in it"
    } else {
        "no server works in it"
    };
    match storage::journal_extent(&config.store) {
        Ok(extent) => ok(
            "journal",
            format!(
                "stored below position {}, {} segments; {server}",
                extent.stored_below, extent.segments
            ),
        ),
        Err(error) => failure("journal", error.to_string()),
    }
}
