//! Wiring: one function per part of the server, each given what it depends on.
//!
//! A part's tasks run either in the foreground, on the threads that answer requests, or in the
//! background, on threads of lower priority.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::bootstrap::Bootstrap;
use super::error::AppError;
use super::maintenance;
use super::metrics::Metrics;
use super::org_watch::OrgWatch;
use crate::auth::Authenticator;
use crate::config::Config;
use crate::delivery::{self, DeliveryInputs, HandoffSenders, RunningDelivery, SuspendedOrgs};
use crate::domain::InstanceId;
use crate::http::{Api, AppState, Parts, Tls};
use crate::ingest::{Handoff, Intake, Replayer, Workers};
use crate::journal::{Journal, JournalReader};
use crate::limit::RateLimiter;
use crate::runtime::{Background, Clock, CpuLoad, Heartbeat, Lifecycle, Wake};
use crate::store::{Store, StoreError};

/// What every part depends on.
pub(super) struct Wiring<'a> {
    pub(super) config: &'a Config,
    pub(super) store: Store,
    pub(super) journal: Journal,
    /// This server.
    pub(super) instance: InstanceId,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// Tasks on the threads that answer requests.
    pub(super) foreground: Lifecycle,
    /// Tasks on the background threads.
    pub(super) background: Lifecycle,
    /// Wakes the dispatcher: there may be due deliveries in the store.
    pub(super) due: Wake,
    /// Wakes the replayer: there is a new replay.
    pub(super) replays: Wake,
}

/// The running delivery part, and what the others need to hand deliveries to it.
pub(super) struct DeliveryPart {
    pub(super) running: RunningDelivery,
    pub(super) handoff: Handoff,
    pub(super) suspended: SuspendedOrgs,
}

impl Wiring<'_> {
    /// Releases the leases that this instance's last run still held, and starts the dispatcher.
    pub(super) async fn delivery(&self) -> Result<DeliveryPart, AppError> {
        let config = &self.config.delivery;
        let instance = self.instance;
        self.release_leases(instance).await?;
        // Loaded before the first attempt, so that nothing is sent for a suspended organisation.
        let suspended = self.suspended_orgs().await?;
        let (HandoffSenders { fast, bulk }, receiver) = delivery::handoff(config);
        let inputs = DeliveryInputs::new(receiver, self.due.clone(), instance, suspended.clone());
        let running = delivery::start(
            config,
            self.store.clone(),
            self.clock.clone(),
            Arc::clone(&self.metrics.delivery),
            inputs,
            &self.background,
        )?;
        let handoff = Handoff {
            fast,
            bulk,
            backpressured: running.handle.backpressured(),
            wake: self.due.clone(),
            instance,
            lease_span: delivery::lease_span(config),
        };
        Ok(DeliveryPart { running, handoff, suspended })
    }

    async fn release_leases(&self, instance: InstanceId) -> Result<(), StoreError> {
        let released = self.store.system().release_leases(instance, self.clock.now()).await?;
        if released > 0 {
            tracing::info!(released, "recovered leased deliveries from the previous run");
        }
        Ok(())
    }

    /// Creates the first organisation and keys if the store has none.
    pub(super) async fn bootstrap(&self, base_url: String) -> Result<Option<Bootstrap>, AppError> {
        let events_per_minute = self.config.limit.rate_limit_per_minute;
        let prepared =
            Bootstrap::prepare(&self.store, self.clock.now(), base_url, events_per_minute);
        Ok(prepared.await?)
    }

    async fn suspended_orgs(&self) -> Result<SuspendedOrgs, StoreError> {
        let suspended = SuspendedOrgs::default();
        suspended.set(self.store.system().suspended_orgs().await?);
        Ok(suspended)
    }

    /// Starts the workers that move events from the journal to the store. The caller's runtime is the
    /// one whose load they yield to.
    pub(super) fn ingest(&self, reader: JournalReader, handoff: Handoff) -> Heartbeat {
        let workers = Workers::new(
            &self.config.ingest,
            reader,
            CpuLoad::of(Handle::current()),
            self.store.clone(),
            handoff,
            self.clock.clone(),
            Arc::clone(&self.metrics.ingest),
        );
        let heartbeat = workers.heartbeat();
        workers.start(self.config.ingest.worker_count(), &self.background);
        heartbeat
    }

    /// Starts the replayer.
    pub(super) fn replayer(&self) {
        let replayer = Replayer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            wake: self.replays.clone(),
            planned: self.due.clone(),
        };
        self.background.spawn("replayer", replayer.run(self.background.shutdown()));
    }

    /// Sets up authentication and starts to watch for changed organisations and keys.
    pub(super) fn auth(&self, suspended: SuspendedOrgs) -> Authenticator {
        let authenticator = Authenticator::new(
            &self.config.auth,
            self.store.clone(),
            self.clock.clone(),
            Arc::clone(&self.metrics.auth),
        );
        let watch = OrgWatch {
            store: self.store.clone(),
            clock: self.clock.clone(),
            authenticator: authenticator.clone(),
            suspended,
            poll_interval: self.config.auth.auth_poll_interval,
        };
        watch.start(&self.foreground, &self.background);
        authenticator
    }

    /// Starts the store's maintenance and checkpoints.
    pub(super) fn maintenance(&self) {
        let stop = || self.foreground.shutdown();
        let store = || self.store.clone();
        self.foreground.spawn("maintenance", maintenance::run(store(), self.clock.clone(), stop()));
        self.background.spawn("checkpoints", maintenance::checkpoint(store(), stop()));
    }

    /// Sets up the HTTP API. Its slow work runs on the background threads.
    pub(super) fn http(
        self,
        authenticator: Authenticator,
        running: RunningDelivery,
        ingest: Heartbeat,
        threads: &Background,
    ) -> Api {
        let parts = Parts {
            authenticator,
            limiter: RateLimiter::new(&self.config.limit),
            intake: Intake::new(self.journal, self.clock.clone()),
            delivery: running.handle,
            wake: self.due,
            replays: self.replays,
            vitals: running.health,
            ingest,
            store: self.store,
            metrics: self.metrics.for_api(),
            clock: self.clock,
            background: threads.handle(),
            shutdown: self.foreground.shutdown(),
        };
        Api::new(AppState::new(self.config, parts))
    }
}

/// Reads the certificate, if the settings name one.
pub(super) async fn read_certificate(config: &Config) -> Result<Option<Arc<Tls>>, AppError> {
    let (Some(cert), Some(key)) = (&config.server.tls_cert, &config.server.tls_key) else {
        return Ok(None);
    };
    let (cert, key) = (cert.clone(), key.clone());
    let tls = tokio::task::spawn_blocking(move || Tls::read(&cert, &key)).await??;
    Ok(Some(Arc::new(tls)))
}

/// Binds `HOST` and `PORT`, and returns the address that the system chose for port 0.
pub(super) async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), AppError> {
    let address = SocketAddr::new(config.server.host, config.server.port);
    let failed = |error| AppError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
