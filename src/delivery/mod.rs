//! Delivery: from leased deliveries to recorded outcomes.
//!
//! # Parts
//! - An [`Event`](crate::domain::Event) happened; an [`Endpoint`](crate::domain::Endpoint) subscribes to it;
//!   a [`Delivery`](crate::domain::Delivery) is one event on its way to one endpoint.
//! - The **dispatcher** keeps leased deliveries in **lanes**, one per endpoint, and starts attempts in
//!   round-robin order. The **claimer** leases due deliveries from the store for it.
//! - The **throttles** decide per endpoint what may start: **circuit breaker**, **rate limit**, concurrency.
//! - The **handoff** receives deliveries that the ingest workers have leased already.
//! - The **handle** evicts deliveries from memory and publishes which endpoints are backpressured.
//! - The **attempter** makes one attempt: the **sender** posts what **webhook** and **signer** build, the
//!   **SSRF guard** checks the destination, the **retry policy** decides what follows.
//! - The **recorder** writes outcomes to the store in batches.
//! - The **health** heartbeats show that the dispatcher runs and that something makes progress.
//!
//! # The path of one delivery
//! ```text
//! ingest ── handoff ──┐                        ┌─ 2xx                    delivered
//!                      ├─ lane ─ slot ─ attempt ┼─ failed, attempts left  due again at T
//! store ─── claim ─────┘                        └─ 410, or none left      dead letter
//! ```
//! A delivery arrives leased, either by a handoff from the ingest worker that created it, or by a claim of
//! what is due: retries, deliveries that had no room at first, and leases that another server let lapse.
//! Claims run at every poll and every wake, and back to back while they come back full. Handoffs save a
//! query; claims are the guarantee.
//!
//! # Fairness
//! Organisations are served in round-robin order, and within each its endpoints (`lanes.rs`). Claims skip an
//! endpoint whose lane has its share or whose breaker is open. Handoffs use two channels, so that an
//! organisation with few events does not queue behind another one's thousands, and the head of the bulk
//! channel is held for a moment if its lane is full (`handoff.rs`). While a lane makes no progress or a
//! breaker is open, new deliveries to the endpoint are not leased but stay in the store.
//!
//! # Breaker and schedule
//! The retry schedule says when the next attempt is due; an open breaker may delay it to the end of its
//! pause. Then one delivery is the probe, an ordinary attempt. If it succeeds, everything that waited is
//! claimed at once. Deliveries that wait for a breaker are in the store, due, and count no attempt. The
//! longest pause bounds how late a recovered receiver is noticed.
//!
//! # Order
//! Deliveries to ordered endpoints are never handed off. A claim takes the oldest one of an endpoint, and none
//! while another is in flight. The next follows when the outcome is recorded, which wakes the dispatcher.
//! Ingest stores the events of organisations with ordered endpoints in the order of acceptance, so a claim
//! never misses an older one. A breaker, a disabled endpoint and a retry's wait block the head of line, and
//! so everything behind it.
//!
//! # Leases
//! A lease is the exclusive right to attempt a delivery for some minutes ([`lease_span`]). It keeps two
//! servers from attempting the same delivery, and lapses by itself when its holder dies. It usually outlasts
//! the time that deliveries wait in memory. A delivery that waited longer is dropped instead of started,
//! since an attempt must end within its lease, and is claimed again once the lease has lapsed. Each lease has
//! a fencing token, and an outcome counts only while its row still has that token. So a receiver may get a
//! webhook twice, with one `webhook-id`, but a stalled holder cannot overwrite what a later one recorded. A
//! restarted server releases the leases of its previous run at once; other servers wait for them to lapse.
//!
//! # Secrets
//! An attempt is signed with every secret that is active when it starts, as the endpoint was known when the
//! lease was taken. So a rotation takes effect with the next lease: at once for new leases, and within
//! [`lease_span`] for deliveries that wait in memory, which are signed with the old secret alone. A receiver
//! accepts that, or rejects it and gets the retry, which is signed with both. If a secret cannot be
//! decrypted, the attempt fails: nothing is sent unsigned.
//!
//! # Suspensions
//! The endpoints of a suspended organisation are disabled in the store, which parks their deliveries.
//! Deliveries that wait in memory are released instead of started (`suspended_orgs.rs`), and no attempt is
//! counted.
//!
//! # Failure
//! - A slow or failing receiver affects its own endpoint only: it holds at most its slots and its share of
//!   the memory (`lanes.rs`), and the others are served as usual.
//! - A store outage stops claims, then recording, and, as outcomes fill their queue, sending.
//! - Soft stop: no more claims; deliveries that were not started are released, due at once; attempts
//!   in flight end; outcomes are recorded; then the tasks end. Hard stop or crash: leases lapse.
//!
//! **Invariant:** a delivery leaves memory only with its outcome in the store, or with its lease left to
//! lapse. Nothing is acknowledged to anyone before.
//!
//! **Invariant:** memory is bounded: `DELIVERY_QUEUE_CAPACITY` deliveries, including `DELIVERY_CONCURRENCY`
//! attempts, and a fixed queue of outcomes.

mod attempt;
mod breaker;
mod claimer;
mod dispatcher;
mod endpoint_rate;
mod evictions;
mod failure;
mod handle;
mod handoff;
mod health;
mod lanes;
mod metrics;
mod recorder;
mod resolver;
mod retry;
mod sender;
mod signer;
mod ssrf_guard;
mod suspended_orgs;
mod throttle;
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

use attempt::Attempter;
use claimer::Claimer;
use dispatcher::{Dispatcher, DispatcherOptions};
use evictions::Evictions;
use lanes::{LaneLimits, Lanes};
use recorder::{QUEUE_OUTCOMES, Recorder};
use sender::{Sender, SenderOptions};
use throttle::EndpointThrottles;

pub use handle::DeliveryHandle;
pub use handoff::{HandoffReceiver, HandoffSenders};
pub use health::DeliveryHealth;
pub use metrics::{DeliveryMetrics, WebhookResult};
pub use resolver::{DnsResolver, SystemResolver};
pub use signer::{Verifier, sign};
pub use ssrf_guard::SsrfGuard;
pub use suspended_orgs::SuspendedOrgs;

/// Why the delivery service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The HTTP client cannot be set up, for example because the system has no root certificates.
    #[error("cannot set up the webhook client: {0:?}")]
    Client(#[from] reqwest::Error),
    /// `WEBHOOK_CA_FILE` cannot be used.
    #[error("WEBHOOK_CA_FILE={}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// How long deliveries are leased, by claims and for handoffs: `DELIVERY_LEASE`, but at least the time of
/// four attempts.
pub fn lease_span(config: &DeliveryConfig) -> Duration {
    config.delivery_lease.max(config.delivery_timeout * 4)
}

/// Both ends of the channels over which leased deliveries are handed to the dispatcher.
///
/// Their capacity is half of `DELIVERY_QUEUE_CAPACITY`, and at least two; the lanes have the other half.
pub fn handoff(config: &DeliveryConfig) -> (HandoffSenders, HandoffReceiver) {
    HandoffReceiver::with_capacity(config.delivery_queue_capacity as usize / 2)
}

/// What the service is given by the rest of the process.
#[derive(Debug)]
pub struct DeliveryInputs {
    /// Leased deliveries from the ingest workers: the receiving end of [`handoff`].
    pub handoff: HandoffReceiver,
    /// Hints that the store has due deliveries.
    pub wake: Wake,
    /// The server that claimed deliveries are leased to.
    pub instance: InstanceId,
    /// Organisations whose deliveries are not attempted.
    pub suspended: SuspendedOrgs,
    /// Resolves the names of receivers.
    pub resolver: Arc<dyn DnsResolver>,
}

impl DeliveryInputs {
    /// Inputs that resolve names as the operating system does.
    pub fn new(
        handoff: HandoffReceiver,
        wake: Wake,
        instance: InstanceId,
        suspended: SuspendedOrgs,
    ) -> Self {
        Self { handoff, wake, instance, suspended, resolver: Arc::new(SystemResolver) }
    }
}

/// What the rest of the process holds of the delivery service.
#[derive(Clone, Debug)]
pub struct RunningDelivery {
    /// Evicts deliveries from memory, and tells which endpoints are backpressured.
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
        let DeliveryInputs { handoff, wake, instance, suspended, resolver } = inputs;
        let options = options(config);
        let sender = sender(config, resolver)?;
        let (reports_in, reports_out) = mpsc::channel(QUEUE_OUTCOMES);
        let health = DeliveryHealth::new(&clock);
        let progress = health.progress.clone();
        let recorder = Recorder::new(store.clone(), reports_out, wake.clone(), progress);
        let attempter = Attempter {
            sender,
            schedule: config.retry_schedule.clone(),
            disable_after: config.disable_after,
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
            reports: reports_in,
        };
        let dispatcher = Dispatcher {
            options,
            claimer: Claimer::new(store, instance, options.lease),
            clock,
            metrics,
            attempter: Arc::new(attempter),
            wake,
            suspended,
            handoff,
            lanes: Lanes::new(options.limits),
            throttles: EndpointThrottles::new(config.endpoint_concurrency as usize),
            rate_limited_until: None,
            handle: DeliveryHandle::new(),
            evictions: Evictions::default(),
            tasks: JoinSet::new(),
            health,
        };
        Ok(Self { dispatcher, recorder })
    }

    /// The handle that the rest of the process holds.
    pub fn handle(&self) -> DeliveryHandle {
        self.dispatcher.handle.clone()
    }

    /// The handle and the heartbeats of the service.
    pub fn running(&self) -> RunningDelivery {
        RunningDelivery { handle: self.handle(), health: self.dispatcher.health.clone() }
    }

    /// Attempts handed-off deliveries, and claims due ones from the store at every wake and every poll, until the
    /// graceful shutdown.
    pub fn start(self, lifecycle: &Lifecycle) {
        let shutdown: Shutdown = lifecycle.shutdown();
        lifecycle.spawn("delivery dispatcher", self.dispatcher.run(shutdown));
        // Ends when the dispatcher and the last attempt have ended, and so every sender is dropped.
        lifecycle.spawn("delivery recorder", self.recorder.run());
    }

    /// Claims once, attempts everything claimed and handed off, records every outcome, and returns the number
    /// of attempts. For tests, which set the clock.
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
    resolver: Arc<dyn DnsResolver>,
) -> Result<Sender, DeliveryError> {
    let options = SenderOptions {
        connect_timeout: config.delivery_connect_timeout,
        timeout: config.delivery_timeout,
        // One host may serve the endpoints of many tenants, with all attempts in flight.
        idle_per_host: config.delivery_concurrency as usize,
    };
    let authorities =
        config.webhook_ca_file.as_deref().map(sender::read_authorities).transpose()?;
    let guard = SsrfGuard::new(&config.destinations);
    Ok(Sender::new(guard, resolver, options, authorities.unwrap_or_default())?)
}

fn options(config: &DeliveryConfig) -> DispatcherOptions {
    let capacity = config.delivery_queue_capacity as usize;
    DispatcherOptions {
        limits: LaneLimits {
            // The part that `handoff` leaves.
            capacity: capacity.div_ceil(2),
            slots: config.delivery_concurrency as usize,
        },
        timeout: config.delivery_timeout,
        lease: lease_span(config),
        poll_interval: config.delivery_poll_interval,
    }
}
