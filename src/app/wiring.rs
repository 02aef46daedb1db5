//! Wiring: one function per part of the server, each given what it depends on.
//!
//! A part's tasks run either in the foreground, on the threads that answer requests, or in the
//! background, on threads of lower priority.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::disk_guard::DiskGuard;
use super::error::AppError;
use super::idle_inboxes::IdleInboxes;
use super::maintenance;
use super::metrics::Metrics;
use super::org_watch::OrgWatch;
use super::parts::{AppParts, BackgroundWork, HeldParts};
use super::registration::{Registration, RegistrationTask};
use super::stored_mark::StoredMark;
use crate::analytics::RollupFolder;
use crate::api::{RunningServer, Subsystems};
use crate::auth::Authenticator;
use crate::config::{Config, LimitConfig};
use crate::delivery::{
    AdmissionDoor, DeliveryHandle, DeliveryHealth, DeliveryInputs, DeliveryService,
    RunningDelivery, watch_inboxes,
};
use crate::domain::OrgLimit;
use crate::http::{Api, AppState, Parts, Tls};
use crate::ingest::{Eraser, Intake, Replayer, Workers};
use crate::journal::{Journal, JournalReader};
use crate::limit::RateLimiter;
use crate::runtime::{Background, Clock, CpuLoad, DiskSpace, Gate, Heartbeat, Lifecycle, Wake};
use crate::store::{Store, retention_defaults};
use crate::telemetry::Tracer;

/// What every part depends on.
pub(super) struct Wiring<'a> {
    pub(super) config: &'a Config,
    pub(super) store: Store,
    pub(super) journal: Journal,
    /// This run of the server.
    pub(super) registration: Registration,
    /// How far the store has the journal's records.
    pub(super) mark: StoredMark,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) tracer: Tracer,
    /// Whether background tasks are started.
    pub(super) work: BackgroundWork,
    /// Open once the store is started.
    pub(super) store_started: Gate,
    /// Tasks on the threads that answer requests.
    pub(super) foreground: Lifecycle,
    /// Tasks on the background threads.
    pub(super) background: Lifecycle,
    /// Wakes the dispatcher: there may be due deliveries in the store.
    pub(super) due: Wake,
    /// Wakes the replayer: there is a new replay.
    pub(super) replays: Wake,
}

/// The delivery service, and what the others need to offer deliveries to it.
pub(super) struct DeliveryPart {
    pub(super) running: RunningDelivery,
    /// The service itself, not started.
    pub(super) service: DeliveryService,
    pub(super) door: AdmissionDoor,
}

impl Wiring<'_> {
    /// Sets up delivery, which keeps so many idle connections to receivers at most.
    pub(super) fn delivery(&self, idle_connections: usize) -> Result<DeliveryPart, AppError> {
        let config = &self.config.delivery;
        let inputs = DeliveryInputs::new(self.due.clone(), self.registration.id());
        let tracer = self.tracer.clone();
        let inputs = DeliveryInputs { idle_connections, tracer, ..inputs };
        let (store, metrics) = (self.store.for_delivery(), Arc::clone(&self.metrics.delivery));
        let service = DeliveryService::new(config, store, self.clock.clone(), metrics, inputs)?;
        let (running, door) = (service.running(), service.door());
        Ok(DeliveryPart { running, service, door })
    }

    /// Starts the dispatcher.
    pub(super) fn start_delivery(&self, service: DeliveryService) -> Option<DeliveryService> {
        self.start_or_hold(service, |service| service.start(&self.background))
    }

    /// Starts a part, or returns it when background work is held.
    fn start_or_hold<T>(&self, part: T, start: impl FnOnce(T)) -> Option<T> {
        match self.work {
            BackgroundWork::Hold => Some(part),
            BackgroundWork::Run => {
                start(part);
                None
            }
        }
    }

    /// Starts the workers that move events from the journal to the store. They yield to the load of the
    /// caller's runtime, which answers requests.
    pub(super) fn ingest(
        &self,
        reader: JournalReader,
        door: AdmissionDoor,
        delivery: DeliveryHandle,
    ) -> (Heartbeat, Option<JournalReader>) {
        if self.work == BackgroundWork::Hold {
            return (Heartbeat::new(self.clock.clone()), Some(reader));
        }
        let workers = Workers::new(
            &self.config.ingest,
            reader,
            CpuLoad::of(Handle::current()),
            self.store.clone(),
            door,
            self.clock.clone(),
            Arc::clone(&self.metrics.ingest),
        )
        .traced_by(self.tracer.clone());
        let marking = self.mark.clone().run(
            self.journal.clone(),
            self.store.clone(),
            self.clock.clone(),
            delivery,
            self.background.shutdown(),
        );
        self.background.spawn("journal mark", marking);
        let heartbeat = workers.heartbeat();
        workers.start(self.config.ingest.worker_count(), &self.background);
        (heartbeat, None)
    }

    /// Starts the replayer.
    pub(super) fn replayer(&self) -> Option<Replayer> {
        let replayer = Replayer {
            store: self.store.clone(),
            clock: self.clock.clone(),
            wake: self.replays.clone(),
            planned: self.due.clone(),
        };
        self.start_or_hold(replayer, |replayer| {
            self.background.spawn("replayer", replayer.run(self.background.shutdown()));
        })
    }

    /// Starts the folder of rollups.
    pub(super) fn analytics(&self) {
        if self.work == BackgroundWork::Run {
            let metrics = Arc::clone(&self.metrics.analytics);
            let folder = RollupFolder { store: self.store.clone(), metrics };
            self.background.spawn("rollup folder", folder.run(self.background.shutdown()));
        }
    }

    /// Starts the eraser.
    pub(super) fn eraser(&self) {
        if self.work == BackgroundWork::Run {
            let eraser = Eraser { store: self.store.clone(), clock: self.clock.clone() };
            self.background.spawn("eraser", eraser.run(self.background.shutdown()));
        }
    }

    /// Sets up authentication and starts to watch for changed organisations and keys.
    pub(super) fn auth(&self, delivery: DeliveryHandle) -> Authenticator {
        let authenticator = Authenticator::new(
            &self.config.auth,
            self.store.for_keys(),
            self.clock.clone(),
            Arc::clone(&self.metrics.auth),
        );
        let watch = OrgWatch {
            store: self.store.clone(),
            clock: self.clock.clone(),
            authenticator: authenticator.clone(),
            delivery,
            poll_interval: self.config.auth.auth_poll_interval,
        };
        self.start_or_hold(watch, |watch| watch.start(&self.foreground, &self.background));
        authenticator
    }

    /// Starts what wakes the consumers of inboxes, and what pauses inboxes that nobody reads.
    pub(super) fn inboxes(&self, delivery: &DeliveryHandle) {
        if self.work == BackgroundWork::Hold {
            return;
        }
        let wakes = delivery.inboxes().wakes.clone();
        let store = self.store.for_delivery();
        let watching = watch_inboxes(wakes, store, self.clock.clone(), self.background.shutdown());
        self.background.spawn("inbox watch", watching);
        let (store, delivery) = (self.store.clone(), delivery.clone());
        let idle_max = self.config.delivery.inbox_idle_max;
        let idle = IdleInboxes::new(store, self.clock.clone(), delivery, idle_max);
        self.background.spawn("idle inboxes", idle.run(self.background.shutdown()));
    }

    /// Starts the store's maintenance and checkpoints, and the server's heartbeat.
    pub(super) fn maintenance(&self) {
        if self.work == BackgroundWork::Hold {
            return;
        }
        let stop = || self.foreground.shutdown();
        let store = || self.store.clone();
        self.foreground.spawn(
            "maintenance",
            maintenance::run(
                store(),
                self.journal.clone(),
                self.config.journal.journal_retention,
                self.clock.clone(),
                stop(),
            ),
        );
        self.foreground.spawn(
            "schedule clock",
            maintenance::follow_clock(store(), self.clock.clone(), stop()),
        );
        self.background.spawn(
            "retention",
            maintenance::retain(store(), self.config.retention.clone(), self.clock.clone(), stop()),
        );
        let metrics = Arc::clone(&self.metrics.store);
        self.background.spawn(
            "store gauges",
            maintenance::measure(store(), metrics, self.clock.clone(), stop()),
        );
        let metrics = Arc::clone(&self.metrics.store);
        self.background.spawn(
            "delivery counts",
            maintenance::count_deliveries(
                self.store.for_reads(),
                metrics,
                self.clock.clone(),
                stop(),
            ),
        );
        self.background.spawn("checkpoints", maintenance::checkpoint(store(), stop()));
        let registration = RegistrationTask {
            registration: self.registration.clone(),
            store: self.store.for_keys(),
            clock: self.clock.clone(),
            metrics: Arc::clone(&self.metrics.journal),
            due: self.due.clone(),
        };
        self.foreground.spawn("server heartbeat", registration.run(stop()));
    }

    /// Starts to guard the free disk space, which was looked at once, and returns what is found.
    pub(super) fn disk_guard(&self) -> DiskSpace {
        let Config { disk, store, .. } = self.config;
        let guard = DiskGuard::new(*disk, store, Arc::clone(&self.metrics.store));
        let (space, of_sqlite) = (guard.space(), guard.sqlite_space());
        let stop = || self.background.shutdown();
        self.background.spawn("disk guard", guard.run(stop()));
        let giving = maintenance::give_space_back(self.store.clone(), of_sqlite, stop());
        self.background.spawn("space", giving);
        space
    }

    /// Handles of the parts.
    pub(super) fn parts(
        &self,
        authenticator: Authenticator,
        delivery_health: DeliveryHealth,
    ) -> AppParts {
        AppParts {
            store: self.store.clone(),
            journal: self.journal.clone(),
            authenticator,
            delivery_health,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Sets up the HTTP API. Its slow work runs on the background threads.
    pub(super) fn http(
        self,
        parts: &AppParts,
        running: RunningDelivery,
        ingest: Heartbeat,
        disk: DiskSpace,
        threads: &Background,
    ) -> Api {
        let server = RunningServer {
            id: self.registration.id(),
            authenticator: parts.authenticator.clone(),
            delivery: running.handle,
            replayer: self.replays,
        };
        let LimitConfig { endpoints_max, keys_max, .. } = self.config.limit;
        let quotas = retention_defaults(&self.config.retention)
            .with(OrgLimit::Endpoints, Some(endpoints_max))
            .with(OrgLimit::Keys, Some(keys_max));
        let (store, clock) = (self.store.with_quota_defaults(quotas), self.clock.clone());
        let parts = Parts {
            subsystems: Subsystems { store, clock, server: Some(server) },
            authenticator: parts.authenticator.clone(),
            limiter: RateLimiter::new(&self.config.limit),
            intake: Intake::new(self.journal, self.clock, disk),
            delivery_health: running.health,
            ingest,
            metrics: self.metrics.for_api(),
            tracer: self.tracer,
            store_started: self.store_started,
            background: threads.handle(),
            shutdown: self.foreground.shutdown(),
        };
        Api::new(AppState::new(self.config, parts))
    }
}

/// The parts that were not started, if background work is held.
pub(super) fn held(
    delivery: Option<DeliveryService>,
    replayer: Option<Replayer>,
    reader: Option<JournalReader>,
) -> Option<HeldParts> {
    Some(HeldParts { delivery: delivery?, replayer: replayer?, reader: reader? })
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
