//! Builder of an [`App`]: the production defaults, with the clock and the background work replaceable.
//!
//! This is the entry point for test harnesses and for embedding. [`App::build`] goes through it too, so there is
//! one way to put a server together.

use std::net::SocketAddr;
use std::sync::Arc;

use super::error::AppError;
use super::metrics::Metrics;
use super::parts::BackgroundWork;
use super::storage::OpenError;
use super::wiring::{self, Wiring};
use super::{App, storage};
use crate::config::{Config, StoreConfig};
use crate::http::Tls;
use crate::runtime::{Background, Clock, Lifecycle, Wake};
use crate::store::{Store, StoreMetrics};

/// Settings of a server beyond its configuration.
pub struct AppBuilder<'a> {
    config: &'a Config,
    clock: Clock,
    background: BackgroundWork,
    bootstrap: bool,
}

impl<'a> AppBuilder<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        Self { config, clock: Clock::system(), background: BackgroundWork::Run, bootstrap: true }
    }

    /// Sets the clock. Default: the system's.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Sets what happens to the background tasks. Default: they run.
    #[must_use]
    pub fn background(self, background: BackgroundWork) -> Self {
        Self { background, ..self }
    }

    /// Leaves an empty store empty, without a first organisation and keys.
    #[must_use]
    pub fn without_bootstrap(self) -> Self {
        Self { bootstrap: false, ..self }
    }

    /// Opens the store and the journal, wires every part and starts to listen.
    pub async fn build(self) -> Result<App, AppError> {
        let Self { config, clock, .. } = self;
        let metrics = Metrics::new().map_err(OpenError::Metrics)?;
        let tls = wiring::read_certificate(config).await?;
        let background = Background::start().map_err(AppError::Threads)?;
        let store = open_store_on(&background, &config.store, Arc::clone(&metrics.store)).await?;
        bring_up_to_date(&store, &clock).await?;
        let (listener, address) = wiring::listen(config).await?;
        let (journal, reader, instance) =
            storage::open_journal(&config.store, &config.journal, Arc::clone(&metrics.journal))
                .await?;

        let lifecycle = Lifecycle::new();
        let wiring = Wiring {
            config,
            store,
            journal,
            instance,
            clock,
            metrics,
            work: self.background,
            background: lifecycle.in_background(&background),
            foreground: lifecycle.clone(),
            due: Wake::new(),
            replays: Wake::new(),
        };
        let delivery = wiring.delivery().await?;
        // The last step that can fail, so that created keys are always shown.
        let bootstrap = if self.bootstrap {
            wiring.bootstrap(base_url(tls.as_deref(), address)).await?
        } else {
            None
        };
        let replayer = wiring.replayer();
        let authenticator = wiring.auth(delivery.running.handle.clone());
        wiring.maintenance();
        let (ingest, reader) = wiring.ingest(reader, delivery.door);
        let parts = wiring.parts(authenticator, delivery.running.health.clone());
        let api = wiring.http(&parts, delivery.running, ingest, &background);
        Ok(App {
            listener,
            address,
            tls,
            api,
            lifecycle,
            parts,
            held: wiring::held(delivery.service, replayer, reader),
            bootstrap,
            shutdown_timeout: config.server.shutdown_timeout,
            _background: background,
        })
    }
}

/// The URL that clients on this machine call.
fn base_url(tls: Option<&Tls>, address: SocketAddr) -> String {
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// Opens the store on the background threads, so that its own tasks and threads run there too.
async fn open_store_on(
    background: &Background,
    config: &StoreConfig,
    metrics: Arc<StoreMetrics>,
) -> Result<Store, AppError> {
    let config = config.clone();
    let opening = async move { storage::open_store(&config, metrics).await };
    Ok(background.handle().spawn(opening).await??)
}

/// Migrates the schema, checks the keys, and creates the partitions that are due.
async fn bring_up_to_date(store: &Store, clock: &Clock) -> Result<(), AppError> {
    let applied = store.migrate_up().await?;
    if applied > 0 {
        tracing::info!(applied, "database schema migrated");
    }
    storage::require_keys(store).await?;
    store.system().maintain(clock.now()).await?;
    Ok(())
}
