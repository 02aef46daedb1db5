//! The start of the store: what is done before anything works with it.
//!
//! A store that is older than the journal is refused, the schema is migrated, the keys of its secrets are checked,
//! and what earlier runs of this server left is released. If the store is away, or its disk has no space, the server
//! listens all the same, strict readiness is red, and
//! this is tried again in the background. Until it has succeeded no other task touches the store: a statement of this
//! version on the schema of the last one could fail for good. Requests are answered meanwhile: those with keys that
//! are not known get 503.

use std::time::Duration;

use super::bootstrap::{Bootstrap, BootstrapOptions};
use super::error::AppError;
use super::registration::Registration;
use super::storage;
use super::stored_mark::StoredMark;
use crate::runtime::{Backoff, Clock, Gate, Shutdown};
use crate::store::{Schedule, Store};

/// The first wait before it is tried again; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);

/// How long the start waits for partitions, and for each lock that one needs.
const DAYS_TIMEOUT: Duration = Duration::from_secs(2);
const DAYS_LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// Whether the start was the first one of its store, which has made keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FirstStart(pub(super) bool);

/// The start of a server's store.
#[derive(Clone)]
pub(super) struct StoreStart {
    pub(super) store: Store,
    pub(super) clock: Clock,
    /// This run of the server.
    pub(super) registration: Registration,
    /// How far the store has the journal's records.
    pub(super) mark: StoredMark,
    /// Whether the database may hold tables of something else.
    pub(super) may_share: bool,
    /// Creates the first organisation and keys in an empty store, if set.
    pub(super) bootstrap: Option<BootstrapOptions>,
}

impl StoreStart {
    /// Does all of it once. Creating the first keys is the last step, so that created keys are always shown.
    pub(super) async fn run_once(&self) -> Result<FirstStart, AppError> {
        let Self { store, clock, registration, mark, bootstrap, may_share } = self;
        store.require_utf8().await?;
        if !may_share {
            store.require_own_tables().await?;
        }
        mark.check(store).await?;
        let applied = store.migrate_up().await?;
        if applied > 0 {
            tracing::info!(applied, "database schema migrated");
        }
        storage::require_keys(store).await?;
        mark.begin(store).await?;
        prepare_days(store, clock).await;
        Schedule::start(store.clone(), clock.clone()).await?;
        // Before anything is stored: streams at other servers, or from before a restart, miss nothing.
        store.system().load_followed(clock.now()).await?;
        let old = registration.release_old(store, clock.schedule()).await?;
        let beat = registration.beat(store, clock.schedule()).await?;
        beat.log_move();
        let released = old + beat.released;
        if released > 0 {
            tracing::info!(released, "recovered leased deliveries from the previous run");
        }
        let is_first = match bootstrap.clone() {
            Some(options) => Bootstrap::prepare(store, clock.now(), options).await?,
            None => false,
        };
        Ok(FirstStart(is_first))
    }

    /// Does it as soon as the store is back, then opens `gate`. Ends at the soft stop, or early with what only a
    /// person mends.
    pub(super) async fn run(self, gate: Gate, shutdown: Shutdown) {
        let mut backoff = Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX);
        let started = loop {
            match self.run_once().await {
                Err(error) if error.is_store_away() => {
                    tracing::debug!(%error, "the store is away");
                }
                started => break started,
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = backoff.sleep() => {}
            }
        };
        match started {
            Ok(FirstStart(_)) => {
                tracing::info!("the store is back");
                gate.open();
                shutdown.requested().await;
            }
            Err(error) => tracing::error!(%error, "cannot start the store"),
        }
    }
}

/// Creates what is missing of the partitions of today and the coming days, within a short time: the first rows are to
/// find theirs, but the start does not depend on it. Whoever reads the tables for long keeps partitions from being
/// created; maintenance then does it, and events wait in the journal until then.
async fn prepare_days(store: &Store, clock: &Clock) {
    let creating = store.system().create_partitions(clock.now(), DAYS_LOCK_TIMEOUT);
    match tokio::time::timeout(DAYS_TIMEOUT, creating).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot create partitions yet; trying again later");
        }
        Err(_) => tracing::warn!("creating partitions takes long; trying again later"),
    }
}
