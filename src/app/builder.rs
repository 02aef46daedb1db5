//! Builder of an [`App`]: the production defaults, with the clock and the background work replaceable.
//!
//! This is the entry point for test harnesses and for embedding. [`App::build`] goes through it too, so there is
//! one way to put a server together.

use std::net::SocketAddr;
use std::sync::Arc;

use super::bootstrap::{BootstrapOptions, GivenKeys, ShowKeys, print_keys};
use super::descriptors::DescriptorBudget;
use super::error::AppError;
use super::metrics::Metrics;
use super::parts::BackgroundWork;
use super::storage::{OpenError, OpenJournal};
use super::store_start::{FirstStart, StoreStart};
use super::wiring::{self, Wiring};
use super::{App, start_report, storage};
use crate::config::{Config, StoreConfig};
use crate::http::Tls;
use crate::runtime::{Background, Clock, Gate, Lifecycle, Wake};
use crate::store::{Store, StoreMetrics};
use crate::telemetry::OtlpExport;

/// Settings of a server beyond its configuration.
pub struct AppBuilder<'a> {
    config: &'a Config,
    clock: Clock,
    background: BackgroundWork,
    first_keys: Option<ShowKeys>,
}

impl<'a> AppBuilder<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let (clock, background) = (Clock::system(), BackgroundWork::Run);
        let first_keys = Some(ShowKeys::Terminal(print_keys));
        Self { config, clock, background, first_keys }
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
        Self { first_keys: None, ..self }
    }

    /// Sets how the keys of a first start are shown. Default: on standard output.
    #[must_use]
    pub fn first_keys(self, show: ShowKeys) -> Self {
        Self { first_keys: Some(show), ..self }
    }

    /// Opens the store and the journal, wires every part and starts to listen.
    pub async fn build(self) -> Result<App, AppError> {
        let Self { config, clock, .. } = self;
        let given = check(config)?;
        let metrics = Metrics::new().map_err(OpenError::Metrics)?;
        let tls = wiring::read_certificate(config).await?;
        let background = Background::start().map_err(AppError::Threads)?;
        let export = OtlpExport::start(&config.otlp, &metrics.otlp, &background.handle())?;
        let descriptors = DescriptorBudget::raise(config);
        descriptors.log();
        let config = &descriptors.apply(config);
        start_report::log(config);
        let store = open_store_on(&background, &config.store, Arc::clone(&metrics.store)).await?;
        tracing::info!(split = %store.connection_split(), "database connections");
        let (listener, address) = wiring::listen(config).await?;
        let OpenJournal { journal, reader, registration, mark } = {
            let metrics = Arc::clone(&metrics.journal);
            storage::open_journal(&config.store, &config.journal, metrics, clock.clone()).await?
        };

        let bootstrap = self.first_keys.map(|show| BootstrapOptions {
            base_url: base_url(tls.as_deref(), address),
            events_per_minute: config.limit.rate_limit_per_minute,
            show,
            given,
        });
        let store =
            store.with_clock(clock.clone()).with_event_retention(config.retention.retention);
        let (store_start, lifecycle, gate) = (
            StoreStart {
                store,
                clock,
                registration: registration.clone(),
                mark: mark.clone(),
                may_share: config.store.yes,
                bootstrap,
            },
            Lifecycle::new(),
            Gate::new(),
        );
        let wiring = Wiring {
            config,
            store: store_start.store.clone(),
            journal,
            registration: registration.clone(),
            mark: mark.clone(),
            clock: store_start.clock.clone(),
            metrics,
            tracer: export.tracer(),
            work: self.background,
            store_started: gate.clone(),
            background: lifecycle.in_background(&background).behind(&gate),
            foreground: lifecycle.behind(&gate),
            due: Wake::new(),
            replays: Wake::new(),
        };
        let delivery = wiring.delivery(descriptors.idle_connections())?;
        // The last step that can fail, so that created keys are always shown.
        let started = start_store(store_start, gate, &lifecycle.in_background(&background)).await?;
        if started == Some(FirstStart(false)) {
            tracing::info!(
                "to make an API key: hookgate key create --org ID --name NAME; \
                 for an operator: --operator instead of --org"
            );
        }
        let service = wiring.start_delivery(delivery.service);
        let replayer = wiring.replayer();
        wiring.analytics();
        wiring.eraser();
        let authenticator = wiring.auth(delivery.running.handle.clone());
        wiring.inboxes(&delivery.running.handle);
        wiring.maintenance();
        let disk = wiring.disk_guard();
        let (ingest, reader) =
            wiring.ingest(reader, delivery.door, delivery.running.handle.clone());
        let parts = wiring.parts(authenticator, delivery.running.health.clone());
        let api = wiring.http(&parts, delivery.running, ingest, disk, &background);
        Ok(App {
            listener,
            address,
            tls,
            api,
            lifecycle,
            parts,
            held: wiring::held(service, replayer, reader),
            registration,
            mark,
            export,
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
    let opening = async move { storage::open_store_patiently(&config, metrics).await };
    Ok(background.handle().spawn(opening).await??)
}

/// Starts the store and opens the gate; in the background, with `None`, if the store is away or a disk has no space.
async fn start_store(
    start: StoreStart,
    gate: Gate,
    background: &Lifecycle,
) -> Result<Option<FirstStart>, AppError> {
    match Box::pin(start.run_once()).await {
        Ok(started) => {
            gate.open();
            Ok(Some(started))
        }
        Err(error) if error.is_store_away() => {
            tracing::warn!(%error, "the store is away; known keys are served, and it is tried again");
            background.spawn("store start", start.run(gate, background.shutdown()));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Checks what settings must keep together, and reads the keys that they give.
pub(super) fn check(config: &Config) -> Result<GivenKeys, AppError> {
    config.check_sizes()?;
    config.retention.check()?;
    config.disk.check()?;
    config.otlp.check()?;
    storage::check_journal_size(&config.journal)?;
    GivenKeys::read(&config.bootstrap)
}
