//! Delivery: from due deliveries to recorded outcomes.
//!
//! # Parts
//! - An [`Event`](crate::domain::Event) happened; an [`Endpoint`](crate::domain::Endpoint) subscribes to it;
//!   a [`Delivery`](crate::domain::Delivery) is one event on its way to one endpoint.
//! - **Admission** decides what may start, and when: slots, shares, circuit breakers, rate limits.
//! - The **dispatcher** starts attempts; the **claimer** leases due deliveries from the store for it.
//! - The **endpoint cache** has the endpoints of active organisations; the change feed keeps it true.
//! - The **attempter** makes one attempt: the **sender** posts what **webhook** and **signer** build, the
//!   **resolver** looks the host up, the **SSRF guard** checks the destination, the **retry policy** decides what
//!   follows.
//! - **Inboxes** are fetched from instead: nothing is sent to them, and their deliveries never come into memory here.
//! - The **recorder** writes outcomes to the store in batches.
//!
//! # The path of one delivery
//! ```text
//! ingest ── offer ── stored leased ──┐                       ┌─ 2xx                    delivered
//!                                    ├─ queue ─ slot ─ attempt ┼─ failed, attempts left  pending, due at T
//! store ─── scan, grant, lease ──────┘                       └─ 410, or none left      dead letter
//! ```
//! Ingest [offers](AdmissionDoor::offer) the deliveries of a batch before it stores it. Those that admission
//! takes are stored under a lease and start at commit. All others wait in the store until a claim leases
//! them: as soon as their endpoint has room, if this server knows of them, or when a scan finds them, at every
//! poll and every wake. Offers save a claim; the scan is the guarantee.
//!
//! # Breaker and schedule
//! The retry schedule says when the next attempt is due. An open breaker, a rate limit or a `Retry-After`
//! holds back claims and never changes when a row is due. When a breaker closes, what it held is claimed at once.
//! The longest pause bounds how late a recovered receiver is noticed, or `Retry-After` does, at most a day.
//!
//! # Order
//! Ordered deliveries are never leased when they are stored. A claim takes the oldest one of an endpoint, and
//! none while another is leased. The next follows when the outcome is recorded. Ingest stores the events of
//! organisations with ordered endpoints in the order of acceptance, so a claim never misses an older one. A
//! breaker, a disabled endpoint and a retry's wait block the head of line, and so everything behind it. When an
//! endpoint is no longer ordered, neither are the deliveries that wait for it.
//!
//! # Leases
//! A lease is the exclusive right to attempt a delivery for some minutes ([`lease_span`]). It keeps two
//! servers from attempting the same delivery, and lapses by itself when its holder dies. A delivery that
//! waited too long for an attempt to end within its lease is dropped instead of started, and claimed again once
//! the lease has lapsed. Each lease has a fencing token, and an outcome counts only while its row still has that
//! token. So a receiver may get a webhook twice, with one `webhook-id`, but a stalled holder cannot overwrite what
//! a later one recorded. A restarted server releases the leases of its previous run at once.
//!
//! # Changes of endpoints
//! An attempt goes to the endpoint as it is known when it starts, signed with every secret that is active then. A
//! change through this server is known before it is answered; one by another server or the command line when
//! the change feed brings it, within a second. What waits for an endpoint that was disabled, removed or suspended
//! is released to the store. If a secret cannot be decrypted, the attempt fails: nothing is sent unsigned.
//!
//! # Failure
//! - A slow or failing receiver holds at most its slots; some are kept from it altogether (`admission`).
//! - A store outage stops claims, then recording, and, as outcomes fill their queue, sending.
//! - Soft stop: nothing is claimed or started; deliveries that were not started are released, due at once;
//!   attempts in flight end; outcomes are recorded; then the tasks end. Hard stop or crash: leases lapse.
//!
//! **Invariant:** a delivery leaves memory only with its outcome in the store, or with its lease left to
//! lapse. Nothing is acknowledged to anyone before.
//!
//! **Invariant:** memory is bounded: `DELIVERY_QUEUE_CAPACITY` deliveries and [`QUEUE_BYTES_MAX`] bytes of their
//! payloads, `DELIVERY_CONCURRENCY` attempts among them, and a fixed queue of outcomes. Beside these bytes there are one
//! delivery that is larger than any share, and for each endpoint one that was requested by hand.

mod admission;
mod admission_door;
mod aside;
mod attempt;
mod attempt_span;
mod breaker;
mod claim_targets;
mod claimer;
mod connection_pools;

mod dispatch;
mod dispatcher;
mod due_scanner;
mod endpoint_cache;
mod endpoint_rate;
mod endpoint_watch;
mod exchange;
mod failure;
mod handle;
mod health;
mod inboxes;
mod manual_requests;
mod metrics;
mod outcome_report;
mod public_address;
mod recorder;
mod recorder_backlog;
mod recorder_batch;
mod reserved_places;
mod resolver;
mod retry;
mod sender;
mod sent_request;
mod signer;
#[cfg(test)]
mod simulation;
mod ssrf_guard;
mod unanswered_lease;
mod wakes;
mod webhook;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::DeliveryConfig;
use crate::domain::InstanceId;
use crate::runtime::{Clock, Lifecycle, Shutdown, Wake};
use crate::store::{Store, StoreError};
use crate::telemetry::Tracer;

use admission::AdmissionLimits;
use attempt::Attempter;
use claimer::Claimer;
use dispatch::{Dispatch, DispatchOptions};
use dispatcher::{Dispatcher, DispatcherOptions, Pause, ScanDemand};
use endpoint_cache::EndpointCache;
use recorder::{QUEUE_OUTCOMES, Recorder};
use recorder_batch::Batch;
use resolver::Lookups;
use sender::{Sender, SenderOptions};

pub use admission_door::{AdmissionDoor, Offered};
pub use endpoint_cache::KnownEndpoints;
pub use endpoint_watch::watch_changed_endpoints;
pub use handle::DeliveryHandle;
pub use health::{DeliveryHealth, Recording};
pub use inboxes::{Inboxes, Settler, watch as watch_inboxes};
pub use metrics::{DeliveryMetrics, LookupResult, WebhookResult};
pub use resolver::{DnsAnswer, DnsResolver, LookupError, NameServers};
pub use sent_request::{SentRequest, sent_request};
pub use signer::{Verifier, sign};
pub use ssrf_guard::SsrfGuard;
pub use wakes::{InboxWakes, OutcomeWakes, WakeWaiter, Wakes};
pub use webhook::standard_body;

/// Maximum bytes of payloads of the deliveries in memory.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Idle connections to receivers, over all hosts, unless set otherwise.
pub const IDLE_CONNECTIONS_MAX: usize = 1024;

/// Why the delivery service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The HTTP client cannot be set up.
    #[error("cannot set up the webhook client: {0:?}")]
    Client(#[from] reqwest::Error),
    /// TLS cannot be set up, for example because the system has no root certificates.
    #[error("cannot set up TLS for webhooks: {0}")]
    Tls(#[from] rustls::Error),
    /// `WEBHOOK_CA_FILE` cannot be used.
    #[error("WEBHOOK_CA_FILE={}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// How long deliveries are leased: `DELIVERY_LEASE`, but at least the time of four attempts.
pub fn lease_span(config: &DeliveryConfig) -> Duration {
    config.delivery_lease.max(config.delivery_timeout * 4)
}

/// What the service is given by the rest of the process.
#[derive(Debug)]
pub struct DeliveryInputs {
    /// Hints that the store has due deliveries.
    pub wake: Wake,
    /// The server that claimed deliveries are leased to.
    pub instance: InstanceId,
    /// Resolves the names of receivers; `None` for the name servers of the settings.
    pub resolver: Option<Arc<dyn DnsResolver>>,
    /// Idle connections to receivers at most, over all hosts.
    pub idle_connections: usize,
    /// Records the spans of attempts.
    pub tracer: Tracer,
}

impl DeliveryInputs {
    /// Inputs that resolve names by the settings, without spans.
    pub fn new(wake: Wake, instance: InstanceId) -> Self {
        let (idle_connections, tracer) = (IDLE_CONNECTIONS_MAX, Tracer::off());
        Self { wake, instance, resolver: None, idle_connections, tracer }
    }
}

/// What the rest of the process holds of the delivery service.
#[derive(Clone, Debug)]
pub struct RunningDelivery {
    /// Applies changes to what is in memory.
    pub handle: DeliveryHandle,
    /// Heartbeats for the health check.
    pub health: DeliveryHealth,
}

/// The background service: a dispatcher and a recorder, with a channel of outcomes between them.
pub struct DeliveryService {
    dispatcher: Dispatcher,
    recorder: Recorder,
}

impl DeliveryService {
    /// Sets up the service; nothing runs yet.
    pub fn new(
        config: &DeliveryConfig,
        store: Store,
        clock: Clock,
        metrics: Arc<DeliveryMetrics>,
        inputs: DeliveryInputs,
    ) -> Result<Self, DeliveryError> {
        let DeliveryInputs { wake, instance, resolver, idle_connections, tracer } = inputs;
        let options = DispatcherOptions {
            timeout: config.delivery_timeout,
            lease: lease_span(config),
            poll_interval: config.delivery_poll_interval,
        };
        let resolver = resolver.unwrap_or_else(|| Arc::new(NameServers::new(&config.dns)));
        let lookups = Lookups::new(resolver, config.dns.dns_timeout, Arc::clone(&metrics));
        let sender = sender(config, lookups, idle_connections, Arc::clone(&metrics))?;
        let (reports_in, reports) = mpsc::channel(QUEUE_OUTCOMES);
        let (released_in, released) = mpsc::unbounded_channel();
        let dispatch = Dispatch::new(
            DispatchOptions {
                limits: limits(config),
                instance,
                lease: options.lease,
                released: released_in,
            },
            EndpointCache::new(store.clone(), Arc::clone(&metrics)),
            clock.clone(),
            wake.clone(),
        );
        let health = DeliveryHealth::new(&clock);
        let recorder = Recorder {
            store: store.clone(),
            clock: clock.clone(),
            dispatch: dispatch.clone(),
            reports,
            released,
            batch: Batch::default(),
            wakes: OutcomeWakes::default(),
            progress: health.progress.clone(),
            recording: health.recording.clone(),
        };
        let attempter = Attempter {
            sender,
            schedule: config.retry_schedule.clone(),
            disable_after: config.disable_after,
            clock,
            metrics: Arc::clone(&metrics),
            tracer,
            dispatch: dispatch.clone(),
            reports: reports_in,
        };
        let dispatcher = Dispatcher {
            options,
            metrics,
            attempter: Arc::new(attempter),
            wake,
            claimer: Some(Box::new(Claimer::new(store, dispatch.clone()))),
            dispatch,
            scan: ScanDemand::default(),
            claim_pause: Pause::default(),
            tasks: JoinSet::new(),
            health,
        };
        Ok(Self { dispatcher, recorder })
    }

    /// The handle that the rest of the process holds.
    pub fn handle(&self) -> DeliveryHandle {
        DeliveryHandle::new(self.dispatcher.dispatch.clone(), self.recorder.wakes.clone())
    }

    /// The way of planned deliveries into the dispatcher. The recorder runs until every clone is dropped.
    pub fn door(&self) -> AdmissionDoor {
        let reports = self.dispatcher.attempter.reports.clone();
        AdmissionDoor::new(self.dispatcher.dispatch.clone(), reports)
    }

    /// The handle and the heartbeats of the service.
    pub fn running(&self) -> RunningDelivery {
        RunningDelivery { handle: self.handle(), health: self.dispatcher.health.clone() }
    }

    /// Attempts what is offered, and claims what is due in the store, until the graceful shutdown.
    pub fn start(self, lifecycle: &Lifecycle) {
        let shutdown: Shutdown = lifecycle.shutdown();
        lifecycle.spawn("delivery dispatcher", self.dispatcher.run(shutdown));
        // Ends when the dispatcher and the last attempt have ended, and so every sender is dropped.
        lifecycle.spawn("delivery recorder", self.recorder.run());
    }

    /// Claims once, attempts everything that was claimed and offered, records every outcome, and returns the
    /// number of attempts. For tests, which set the clock.
    pub async fn run_once(&mut self) -> Result<usize, StoreError> {
        let Self { dispatcher, recorder } = self;
        // Boxed: the futures of the store's statements are large.
        let mut pass = Box::pin(dispatcher.run_once());
        let attempted = loop {
            tokio::select! {
                attempted = &mut pass => break attempted,
                _ = recorder.run_once() => {}
            }
        };
        Box::pin(recorder.flush()).await;
        attempted
    }
}

fn sender(
    config: &DeliveryConfig,
    lookups: Lookups,
    idle_connections: usize,
    metrics: Arc<DeliveryMetrics>,
) -> Result<Sender, DeliveryError> {
    let options = SenderOptions {
        connect_timeout: config.delivery_connect_timeout,
        timeout: config.delivery_timeout,
        // One host may serve the endpoints of many tenants, with all attempts in flight.
        idle_per_host: config.delivery_concurrency as usize,
        idle: idle_connections,
    };
    let authorities =
        config.webhook_ca_file.as_deref().map(sender::read_authorities).transpose()?;
    let guard = SsrfGuard::new(&config.destinations);
    Sender::new(guard, lookups, options, authorities.unwrap_or_default(), metrics)
}

fn limits(config: &DeliveryConfig) -> AdmissionLimits {
    AdmissionLimits {
        slots: config.delivery_concurrency as usize,
        places: config.delivery_queue_capacity as usize,
        bytes: QUEUE_BYTES_MAX,
        concurrency: config.endpoint_concurrency as usize,
    }
}
