//! Errors of starting and stopping a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::storage::{self, MissingKeysError, OpenError, OpenJournalError};
use super::stored_mark::MarkError;
use crate::api::Refusal;
use crate::config::{DiskError, ExportBatchError, RetentionError, SizeError};
use crate::delivery::DeliveryError;
use crate::http::TlsError;
use crate::store::{MigrateError, StoreError};
use crate::telemetry::OtlpStartError;

/// Why a server could not be built, or did not stop cleanly.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// Settings of sizes contradict each other.
    #[error(transparent)]
    Sizes(#[from] SizeError),
    /// Settings of the guard of disk space contradict each other.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Settings of retention contradict each other.
    #[error(transparent)]
    Retention(#[from] RetentionError),
    /// Settings of the export of traces and logs contradict each other.
    #[error(transparent)]
    ExportBatch(#[from] ExportBatchError),
    /// The export of traces and logs could not be started.
    #[error(transparent)]
    Otlp(#[from] OtlpStartError),
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
    Bootstrap(#[from] Refusal),
    /// The first keys could not be written down, and were not created.
    #[error(
        "cannot write the first keys to {}: {error}; none was made. Make space, or let the server write there, or give \
         both in BOOTSTRAP_API_KEY and BOOTSTRAP_OPERATOR_KEY",
        .path.display()
    )]
    FirstKeys {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The first keys could not be shown, and were not created.
    #[error("cannot print the first keys: {0}; none was made")]
    FirstKeysUnseen(#[source] std::io::Error),
    /// A key in the settings is malformed.
    #[error("{0} is not a key: its format or checksum is wrong; `hookgate key generate` makes one")]
    BootstrapKey(&'static str),
    /// The first keys in the settings are the same.
    #[error("BOOTSTRAP_API_KEY and BOOTSTRAP_OPERATOR_KEY must be different keys")]
    BootstrapKeysEqual,
    /// The store lacks events that the journal counts as stored.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] OpenJournalError),
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
    /// The background threads could not be started.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// The blocking pool is shutting down.
    #[error("the start was abandoned: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
    /// A background task exited before the soft stop.
    #[error("background task `{0}` exited unexpectedly; see the log")]
    TaskFailed(&'static str),
    /// A write or sync of the journal failed, or its directory was replaced.
    #[error("the journal is poisoned; see the log. Start the server again once its disk works")]
    JournalPoisoned,
}

impl AppError {
    /// Whether the store is away for a while, or the disk of the data directory has no space, so that a server waits.
    pub(super) fn is_store_away(&self) -> bool {
        match self {
            Self::Open(OpenError::Postgres(error))
            | Self::Store(error)
            | Self::MissingKeys(MissingKeysError::Store(error))
            | Self::Bootstrap(Refusal::Store(error)) => error.is_away(),
            Self::Migrate(error) => error.is_away(),
            Self::Mark(MarkError::File { error, .. }) | Self::FirstKeys { error, .. } => {
                storage::is_no_space(error)
            }
            Self::Mark(error) => error.is_store_away(),
            _ => false,
        }
    }
}
