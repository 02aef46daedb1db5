//! A backup of the journal and the store, beside a running server.
//!
//! The journal is copied first and the store after it, so that every event that was accepted before is in one of them:
//! what the store has got meanwhile is in both, and is stored once all the same. The result is a data directory: with
//! the store in it a server starts on it as it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::process::Command;

use super::admin::{self, AdminError};
use super::{storage, stored_mark};
use crate::config::StoreConfig;
use crate::domain::Timestamp;
use crate::journal::{JournalBackup, JournalError};
use crate::store::StoreError;

/// The file that tells what the backup is. Written last.
const MANIFEST: &str = "backup.json";
/// The dump of a PostgreSQL database, in the custom format of `pg_dump`.
const DUMP: &str = "hookgate.pgdump";

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The directory holds files.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The journal cannot be copied.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] AdminError),
    /// The store cannot be copied.
    #[error("cannot copy the database: {0}")]
    Store(#[from] StoreError),
    /// There is no `pg_dump`.
    #[error(
        "there is no pg_dump: install the client programs of the database's PostgreSQL version, or use --journal-only \
         and then back up the database by other means"
    )]
    NoDump,
    /// The database is reached through a pooler that gives out transactions.
    #[error(
        "pg_dump would leave its settings in sessions of the connection pooler: set DATABASE_LISTEN_URL to the \
         database past it, or use --journal-only and then back up the database by other means"
    )]
    Pooled,
    /// `pg_dump` failed.
    #[error("pg_dump failed: {0}")]
    Dump(String),
}

/// A backup that was made.
#[derive(Clone, Debug, Serialize)]
pub struct Backup {
    /// The version of the program that made it.
    pub version: &'static str,
    /// When it was begun.
    pub made_at: Timestamp,
    /// Every event of the journal below this position is in the store.
    pub stored_below_position: u64,
    /// Segments of the journal in it.
    pub segments: usize,
    /// Of these, segments with bytes that could not be read: the records there are not in it.
    pub damaged_segments: Vec<String>,
    /// The file of the store; `None` if it has the journal only.
    pub database: Option<&'static str>,
}

/// Makes a backup in an empty directory, or one that does not exist yet.
///
/// # Errors
/// When the directory is not empty, or something cannot be copied; what was copied by then is left.
pub async fn back_up(
    config: &StoreConfig,
    dir: &Path,
    journal_only: bool,
    now: Timestamp,
) -> Result<Backup, BackupError> {
    let dumped = match &config.database_url {
        Some(url) if !journal_only => Some(dump_url(config, url)?),
        _ => None,
    };
    prepare(dir)?;
    let JournalBackup { extent, damaged_segments } =
        storage::back_up_journal(config, &dir.join("journal"))?;
    stored_mark::copy_file(&config.data_dir, dir).map_err(|source| failed(dir, source))?;
    let database = match &dumped {
        _ if journal_only => None,
        None => Some(back_up_sqlite(config, dir).await?),
        Some(url) => Some(dump_postgres(url, dir).await?),
    };
    let backup = Backup {
        version: env!("CARGO_PKG_VERSION"),
        made_at: now,
        stored_below_position: extent.stored_below,
        segments: extent.segments,
        damaged_segments,
        database,
    };
    let manifest = dir.join(MANIFEST);
    let text = serde_json::to_string_pretty(&backup).unwrap_or_default();
    fs::write(&manifest, text + "\n").map_err(|source| failed(&manifest, source))?;
    for path in [manifest.as_path(), dir] {
        sync(path)?;
    }
    Ok(backup)
}

fn prepare(dir: &Path) -> Result<(), BackupError> {
    // Its name, too, is there after a loss of power.
    storage::create_dir(dir).map_err(|source| failed(dir, source))?;
    let mut entries = fs::read_dir(dir).map_err(|source| failed(dir, source))?;
    if entries.next().is_some() {
        return Err(BackupError::NotEmpty(dir.to_owned()));
    }
    Ok(())
}

async fn back_up_sqlite(config: &StoreConfig, dir: &Path) -> Result<&'static str, BackupError> {
    let copy = StoreConfig::in_directory(dir).sqlite_path();
    let store = admin::open_existing(config).await?.store;
    let copied = store.copy_sqlite(&copy).await;
    store.close().await;
    copied?;
    sync(&copy)?;
    Ok("hookgate.db")
}

/// Where the database is dumped from: past a pooler, in which a session of `pg_dump` would leave its settings.
fn dump_url(config: &StoreConfig, url: &str) -> Result<String, BackupError> {
    match config.database_listen_url.as_deref() {
        Some(direct) => Ok(at_the_primary(direct)),
        None if config.database_prepared => Ok(at_the_primary(url)),
        None => Err(BackupError::Pooled),
    }
}

/// The URL such that of several hosts the one that takes writes is dumped, as the server finds it. Another one may lack
/// what the journal has given up.
fn at_the_primary(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.find(['/', '?']).map_or(rest, |end| &rest[..end]);
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    if !hosts.contains(',') || url.contains("target_session_attrs=") {
        return url.to_owned();
    }
    let separator = if rest.contains('?') { '&' } else { '?' };
    format!("{url}{separator}target_session_attrs=read-write")
}

async fn dump_postgres(url: &str, dir: &Path) -> Result<&'static str, BackupError> {
    let dump = dir.join(DUMP);
    let (url, password) = without_password(url);
    let mut command = Command::new("pg_dump");
    command.arg("--format=custom").arg("--file").arg(&dump).arg("--dbname").arg(url);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    let output = command.kill_on_drop(true).output().await.map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            BackupError::NoDump
        } else {
            failed(&dump, source)
        }
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(BackupError::Dump(said));
    }
    sync(&dump)?;
    Ok(DUMP)
}

/// The URL as anybody on the machine may see it among the arguments of a process, and its password.
fn without_password(url: &str) -> (String, Option<String>) {
    let all = || (url.to_owned(), None);
    let Some((scheme, rest)) = url.split_once("://") else { return all() };
    let authority = rest.find(['/', '?']).map_or(rest, |end| &rest[..end]);
    let Some(at) = authority.rfind('@') else { return all() };
    let Some((user, password)) = authority[..at].split_once(':') else { return all() };
    // A URL's password is no form: these are plain characters there.
    let escaped = password.replace('+', "%2B").replace('&', "%26").replace('=', "%3D");
    let decoded =
        url::form_urlencoded::parse(escaped.as_bytes()).next().map(|(text, _)| text.into_owned());
    (format!("{scheme}://{user}{}", &rest[at..]), decoded)
}

fn sync(path: &Path) -> Result<(), BackupError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|source| failed(path, source))
}

fn failed(path: &Path, source: io::Error) -> BackupError {
    BackupError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dump_is_made_past_a_pooler_and_of_the_primary() {
        let url = |prepared: bool, listen: Option<&str>| {
            let config = StoreConfig {
                database_prepared: prepared,
                database_listen_url: listen.map(str::to_owned),
                ..StoreConfig::in_directory("unused")
            };
            dump_url(&config, "postgres://u:a,b@one,two/db")
        };
        let read_write = "target_session_attrs=read-write";
        assert_eq!(url(true, None).unwrap(), format!("postgres://u:a,b@one,two/db?{read_write}"));
        for prepared in [true, false] {
            let direct = url(prepared, Some("postgres://three,four/db?sslmode=require"));
            let expected = format!("postgres://three,four/db?sslmode=require&{read_write}");
            assert_eq!(direct.unwrap(), expected);
        }
        let given = "postgres://one,two/db?target_session_attrs=any";
        assert_eq!(url(false, Some(given)).unwrap(), given);
        assert_eq!(url(true, Some("postgres://u:a,b@one/db")).unwrap(), "postgres://u:a,b@one/db");
        let refused = url(false, None).unwrap_err().to_string();
        assert!(refused.contains("DATABASE_LISTEN_URL") && refused.contains("--journal-only"));
    }

    #[test]
    fn password_is_taken_out_of_the_url() {
        let without = |url: &str| without_password(url);
        let (url, password) = without("postgres://u:p%40+=&x@h:1,i:2/db?sslmode=require");
        assert_eq!(url, "postgres://u@h:1,i:2/db?sslmode=require");
        assert_eq!(password.as_deref(), Some("p@+=&x"));
        for same in ["postgres://h/db", "postgres://u@h/db?x=a:b@c", "postgres:///db"] {
            assert_eq!(without(same), (same.to_owned(), None));
        }
    }
}
