//! The composition root: builds every part of the server from the settings, and runs them.
//!
//! # Start
//! [`App::build`] raises the limit of file descriptors and shares it out, opens the store, binds the address, recovers
//! the journal, migrates the store, and wires the parts in the order of their dependencies: delivery, replayer,
//! ingest, auth, maintenance, HTTP. The address is bound before the journal is opened, and the journal before the
//! store is migrated, so that a second server on one address or directory fails early and changes nothing.
//!
//! If the store is away, the server starts all the same. Its background tasks wait until the store is back
//! and migrated; requests are answered, and those with a key that this process has not seen get 503.
//!
//! # Stop
//! [`App::run`] stops in the order in which an event passes through: no new connections, requests in
//! flight answered, batches that were read stored, attempts in flight finished. What the journal and the store
//! hold waits for the next start.
//!
//! # Failure
//! A background task that panics, or exits before the soft stop, stops the server with an error. So does a poisoned
//! journal, once its durable records are stored or `SHUTDOWN_TIMEOUT` is over.
//!
//! **Invariant:** only `storage.rs` names a store engine or a journal implementation, and only this
//! folder knows both ends of what lies between ingest and delivery.

pub mod admin;
pub mod backup;
mod bootstrap;
mod builder;
mod descriptors;
mod directory_mark;
mod disk_guard;
pub mod doctor;
mod error;
mod idle_inboxes;
pub mod journal_admin;
mod journal_failure;
mod maintenance;
mod metrics;
mod org_watch;
mod parts;
mod registration;
mod start_report;
mod storage;
mod store_start;
mod stored_mark;
mod wiring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;

pub use bootstrap::{ShowKeys, print_keys};
pub use builder::AppBuilder;
pub use error::AppError;
pub use metrics::Metrics;
pub use parts::{AppParts, BackgroundWork, HeldParts};
pub use registration::IdentityError;
pub use storage::{MissingKeysError, OpenError, OpenJournalError};
pub use stored_mark::MarkError;

use crate::config::Config;
pub use crate::http::openapi_document;
use crate::http::{self, Api, Tls};
use crate::runtime::{Background, Clock, Lifecycle, Shutdown, Stopwatch};
use crate::store::{Store, StoreError};
use crate::telemetry::OtlpExport;
use registration::Registration;
use stored_mark::StoredMark;

/// How long the stop may take beyond `SHUTDOWN_TIMEOUT`, which is for the work in progress.
const STOP_BEYOND_MAX: Duration = Duration::from_millis(800);

/// How much of that a collector of traces and logs gets that does not answer.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// A server that listens and does not answer before [`Self::run`].
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    api: Api,
    lifecycle: Lifecycle,
    parts: AppParts,
    held: Option<HeldParts>,
    registration: Registration,
    mark: StoredMark,
    export: OtlpExport,
    shutdown_timeout: Duration,
    /// Dropped last: the background threads run the store and most tasks.
    _background: Background,
}

impl App {
    /// Opens the store and the journal, wires every part and starts to listen.
    pub async fn build(config: &Config, clock: Clock) -> Result<Self, AppError> {
        Self::builder(config).clock(clock).build().await
    }

    /// A builder of a server for a test harness, or for embedding in another process.
    pub fn builder(config: &Config) -> AppBuilder<'_> {
        AppBuilder::new(config)
    }

    /// The address it listens on; with `PORT=0`, with the port that the system chose.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A function that reloads the certificate and logs the result; `None` without TLS. It blocks.
    pub fn certificate_reload(&self) -> Option<impl Fn() + Clone + Send + use<>> {
        let tls = Arc::clone(self.tls.as_ref()?);
        Some(move || match tls.reload() {
            Ok(()) => tracing::info!("TLS certificate reloaded"),
            Err(error) => {
                tracing::error!(%error, "cannot reload the TLS certificate; keeping the current one");
            }
        })
    }

    /// Handles of its parts. Clones, so they stay valid while it runs.
    pub fn parts(&self) -> AppParts {
        self.parts.clone()
    }

    /// The parts that [`BackgroundWork::Hold`] left for the caller to step; `None` without it, and after
    /// the first call.
    pub fn take_held_parts(&mut self) -> Option<HeldParts> {
        self.held.take()
    }

    /// The handle that stops it.
    pub fn shutdown(&self) -> Shutdown {
        self.lifecycle.shutdown()
    }

    /// Answers requests until the soft stop, then drains and stops. A poisoned journal stops it, too, with
    /// [`AppError::JournalPoisoned`].
    pub async fn run(self) -> Result<(), AppError> {
        tracing::info!(address = %self.address, "listening");
        let shutdown = self.lifecycle.shutdown();
        let AppParts { store, journal, authenticator, .. } = self.parts;
        let accepting = journal.clone();
        // The last handle that is dropped would join the journal's threads, here, however long the disk hangs.
        let held = journal.clone();
        let serving = http::serve(self.listener, self.tls, self.api, shutdown.clone());
        self.lifecycle.spawn("http", async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "cannot accept connections");
            }
            accepting.close();
        });

        let drain_max = tokio::select! {
            biased;
            () = shutdown.requested() => self.shutdown_timeout,
            left = journal_failure::drained(&journal, self.shutdown_timeout) => left,
        };
        let (stopping, most) = (Stopwatch::start(), drain_max + STOP_BEYOND_MAX);
        let left = || most.saturating_sub(stopping.elapsed());
        let draining = self.lifecycle.drain(drain_max);
        let drained = timeout(most, draining).await.unwrap_or(false);
        let poisoned = journal_failure::is_poisoned(&journal);
        let closing = async {
            // Half of what is left, so that the journal and the store are closed, too.
            let flushing = timeout(left() / 2, authenticator.flush_usage());
            let failed = match flushing.await {
                Ok(flushed) => flushed.err(),
                Err(_) => Some(StoreError::no_answer()),
            };
            if let Some(error) = failed {
                tracing::warn!(%error, "cannot flush usage counters; the last minute is lost");
            }
            let marking = timeout(left() / 2, self.mark.mark(&journal, &store)).await;
            if let Err(error) = marking.unwrap_or_else(|_| Err(StoreError::no_answer())) {
                tracing::debug!(%error, "cannot mark in the store how far it is");
            }
            tokio::task::spawn_blocking(move || journal.shut_down()).await?;
            if drained {
                end_registration(&self.registration, &store).await;
            }
            store.close().await;
            Ok::<_, AppError>(())
        };
        // A database that is locked or gone, or a disk that does not answer, would be waited for.
        let closed = timeout(left(), closing).await.unwrap_or_else(|_| {
            tracing::warn!("the journal or the store does not close; leaving it");
            // The process ends, and with it what it left open.
            std::mem::forget(held);
            Ok(())
        });
        match &closed {
            Err(_) => {}
            Ok(()) if drained => tracing::info!("stopped"),
            Ok(()) => {
                let timeout = self.shutdown_timeout;
                tracing::warn!(
                    ?timeout,
                    "stopped at SHUTDOWN_TIMEOUT; the rest resumes at the next start"
                );
            }
        }
        // Last, for the spans of attempts that the stop waited for, and its lines.
        self.export.flush(left().min(FLUSH_MAX)).await;
        closed?;
        match self.lifecycle.failure() {
            Some(task) => Err(AppError::TaskFailed(task)),
            None if poisoned => Err(AppError::JournalPoisoned),
            None => Ok(()),
        }
    }
}

/// Removes the registration of a server whose work has ended. Otherwise the next start finds that it has.
async fn end_registration(registration: &Registration, store: &Store) {
    if let Err(error) = registration.end(store).await {
        tracing::debug!(%error, "cannot remove the server's registration");
    }
}
