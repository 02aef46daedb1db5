//! Errors of starting and stopping a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::AdminError;
use super::instance::InstanceError;
use crate::delivery::DeliveryError;
use crate::http::TlsError;
use crate::journal::JournalError;
use crate::store::{MigrateError, StoreError};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `DATABASE_URL` names something that is not PostgreSQL.
    #[error("DATABASE_URL must start with postgres:// or postgresql://; unset it for SQLite")]
    Scheme,
    /// `DATA_DIR` does not exist and cannot be created.
    #[error("cannot create the data directory {}: {error}", .path.display())]
    DataDir {
        /// `DATA_DIR`.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The SQLite file cannot be opened.
    #[error("cannot open {}: {error}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        error: StoreError,
    },
    /// PostgreSQL cannot be reached, or refuses the connection.
    #[error("cannot connect to the database in DATABASE_URL: {0}")]
    Postgres(#[source] StoreError),
    /// Two metrics share a name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Why the server cannot be sure to read every secret in the store.
#[derive(Debug, thiserror::Error)]
pub enum MissingKeysError {
    /// `SECRETS_KEY` is unset, or lacks keys that encrypt secrets in the store.
    #[error(
        "SECRETS_KEY lacks the keys {ids}, which encrypt {texts} secrets in the store; list those keys \
         after the first one"
    )]
    Missing {
        /// Number of secrets.
        texts: i64,
        /// The ids of the keys, separated by commas.
        ids: String,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a server could not be built, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed during the start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys that encrypt endpoints' secrets are missing.
    #[error(transparent)]
    MissingKeys(#[from] MissingKeysError),
    /// The schema could not be migrated.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The first organisation and keys could not be created.
    #[error(transparent)]
    Bootstrap(#[from] AdminError),
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The server's id could not be read or written.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The webhook client could not be built.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The certificate is unusable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// `HOST` and `PORT`.
        address: SocketAddr,
        /// The system's error.
        error: std::io::Error,
    },
    /// The journal's settings contradict each other.
    #[error("JOURNAL_MAX_MIB ({max}) must be at least twice JOURNAL_SEGMENT_MIB ({segment})")]
    JournalSize {
        /// `JOURNAL_MAX_MIB`.
        max: u64,
        /// `JOURNAL_SEGMENT_MIB`.
        segment: u64,
    },
    /// The background threads could not be started.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// The blocking pool is shutting down.
    #[error("the start was abandoned: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
    /// A background task exited before the soft stop.
    #[error("background task `{0}` exited unexpectedly; see the log")]
    TaskFailed(&'static str),
}
