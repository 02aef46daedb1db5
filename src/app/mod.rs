//! The composition root: builds every part of the server from the settings, and runs them.
//!
//! # Start
//! [`App::build`] opens the store, migrates it, binds the address, recovers the journal, and wires the
//! parts in the order of their dependencies: delivery, replayer, ingest, auth, maintenance, HTTP. The
//! address is bound before the journal is opened, so that a second server on one address fails early.
//!
//! # Stop
//! [`App::run`] stops in the order in which an event passes through: no new connections, requests in
//! flight answered, the journal drained into the store, attempts in flight finished. Work that is left
//! at `SHUTDOWN_TIMEOUT` stays in the journal or in the store and resumes at the next start.
//!
//! # Failure
//! A background task that panics, or exits before the soft stop, stops the server with an error.
//!
//! **Invariant:** only `storage.rs` names a store engine or a journal implementation, and only this
//! folder knows both ends of the hand-off between ingest and delivery.

mod admin;
mod bootstrap;
mod deliveries;
mod error;
mod instance;
mod maintenance;
mod metrics;
mod org_watch;
mod storage;
mod wiring;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

pub use admin::{Admin, AdminError};
pub use bootstrap::Bootstrap;
pub use error::{AppError, MissingKeysError, OpenError};
pub use instance::InstanceError;
pub use metrics::Metrics;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::http::{self, Api, Tls};
use crate::journal::Journal;
use crate::runtime::{Background, Clock, Lifecycle, Shutdown, Wake};
use crate::store::Store;
use wiring::Wiring;

/// A server that listens and does not answer before [`Self::run`].
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    api: Api,
    authenticator: Authenticator,
    lifecycle: Lifecycle,
    journal: Journal,
    store: Store,
    bootstrap: Option<Bootstrap>,
    shutdown_timeout: Duration,
    /// Dropped last: the background threads run the store and most tasks.
    _background: Background,
}

impl App {
    /// Opens the store and the journal, wires every part and starts to listen.
    pub async fn build(config: &Config, clock: Clock) -> Result<Self, AppError> {
        let metrics = Metrics::new().map_err(OpenError::Metrics)?;
        let tls = wiring::read_certificate(config).await?;
        let background = Background::start().map_err(AppError::Threads)?;
        let store =
            storage::open_store_on(&background, &config.store, Arc::clone(&metrics.store)).await?;
        storage::bring_up_to_date(&store, &clock).await?;
        let (listener, address) = wiring::listen(config).await?;
        let (journal, reader, instance) =
            storage::open_journal(&config.store, &config.journal, Arc::clone(&metrics.journal))
                .await?;

        let lifecycle = Lifecycle::new();
        let wiring = Wiring {
            config,
            store: store.clone(),
            journal: journal.clone(),
            instance,
            clock,
            metrics,
            background: lifecycle.in_background(&background),
            foreground: lifecycle.clone(),
            due: Wake::new(),
            replays: Wake::new(),
        };
        let delivery = wiring.delivery().await?;
        // The last step that can fail, so that created keys are always shown.
        let bootstrap = wiring.bootstrap(base_url(tls.as_deref(), address)).await?;
        wiring.replayer();
        let ingest = wiring.ingest(reader, delivery.handoff);
        let authenticator = wiring.auth(delivery.suspended);
        wiring.maintenance();
        let api = wiring.http(authenticator.clone(), delivery.running, ingest, &background);
        Ok(Self {
            listener,
            address,
            tls,
            api,
            authenticator,
            lifecycle,
            journal,
            store,
            bootstrap,
            shutdown_timeout: config.server.shutdown_timeout,
            _background: background,
        })
    }

    /// The address it listens on; with `PORT=0`, with the port that the system chose.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The organisation and keys that the very first start created.
    pub const fn bootstrap(&self) -> Option<&Bootstrap> {
        self.bootstrap.as_ref()
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

    /// The handle that stops it.
    pub fn shutdown(&self) -> Shutdown {
        self.lifecycle.shutdown()
    }

    /// Answers requests until the soft stop, then drains and stops.
    pub async fn run(self) -> Result<(), AppError> {
        tracing::info!(address = %self.address, "listening");
        let shutdown = self.lifecycle.shutdown();
        let journal = self.journal.clone();
        let serving = http::serve(self.listener, self.tls, self.api, shutdown.clone());
        self.lifecycle.spawn("http", async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "cannot accept connections");
            }
            journal.close();
        });

        shutdown.requested().await;
        let drained = self.lifecycle.drain(self.shutdown_timeout).await;
        if let Err(error) = self.authenticator.flush_usage().await {
            tracing::warn!(%error, "cannot flush usage counters; the last minute is lost");
        }
        let journal = self.journal;
        tokio::task::spawn_blocking(move || journal.shut_down()).await?;
        self.store.close().await;
        if drained {
            tracing::info!("stopped");
        } else {
            let timeout = self.shutdown_timeout;
            tracing::warn!(
                ?timeout,
                "stopped at SHUTDOWN_TIMEOUT; the rest resumes at the next start"
            );
        }
        match self.lifecycle.failure() {
            Some(task) => Err(AppError::TaskFailed(task)),
            None => Ok(()),
        }
    }
}

/// The URL that clients on this machine call.
fn base_url(tls: Option<&Tls>, address: SocketAddr) -> String {
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}
