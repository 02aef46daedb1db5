//! Delivery: from leased deliveries to recorded outcomes.
//!
//! # Dramatis personae
//! - An [`Event`](crate::domain::Event) happened; an [`Endpoint`](crate::domain::Endpoint) wants to
//!   hear of it; the [`Delivery`](crate::domain::Delivery) is the one on its way to the other.
//! - The **dispatcher** holds leased deliveries in **lanes**, one for each endpoint, and starts them in turn.
//! - The **gates** say what each endpoint lets through: its **breaker**, its **pace**, its concurrency.
//! - The **control** is the line to the dispatcher: what to let go of, and whether it works.
//! - The **attempter** makes one attempt: the **sender** posts what **webhook** and **signer** make
//!   of the event, the **guard** watches where it goes, **retry** decides what follows.
//! - The **recorder** brings outcomes to the store, many at a time.
//! - The **vitals** tell probes that the dispatcher goes round and that something gets on.
//!
//! # The way of one delivery
//! ```text
//! ingest ── hand-over ──┐                        ┌─ 2xx                 delivered
//!                       ├─ lane ─ slot ─ attempt ┼─ failed, waits left   due again at T
//! store ─── claim ──────┘                        └─ 410, or none left    dead letter
//! ```
//! A delivery comes in leased, either straight from the worker that planned it or by a claim of what is
//! due: retries, what found no room at first, what another instance let lapse. Claims run at every
//! poll, at every wake, and on and on while they come back full. Deliveries handed over are started
//! without a query; claims are the guarantee.
//!
//! # Turns
//! Organisations take turns, and inside each its endpoints (`lanes.rs`). An endpoint whose lane has its
//! share, or whose breaker is open, is left out of the claims. What is handed over comes by two ways, so
//! that deliveries for an organisation with few events wait behind nobody's thousands, and what is for a full
//! lane is held for a moment (`inbox.rs`). While a lane does not get on, or a breaker is open, what is planned
//! is not leased.
//!
//! # Breaker and schedule
//! The schedule says when an attempt may be made at the earliest; an open breaker may put it off, to
//! the end of its pause. Then one delivery is the probe, an attempt like any other; if it succeeds, all
//! that waited is claimed at once. What waits under an open breaker is in the store, due, and counts no
//! attempt. The longest pause bounds how long a receiver that works again goes unnoticed.
//!
//! # Order
//! Ordered deliveries are never planned leased. A claim takes the oldest one of an endpoint and none
//! while another is in flight, so the next follows when the outcome is recorded, which wakes the
//! dispatcher. Ingest stores the events of organisations with ordered endpoints in the order they
//! were accepted, so what a claim sees is complete as far as it goes. A breaker, a disabled
//! endpoint and a retry's wait hold the head up, and so all that is behind it.
//!
//! # Leases
//! A lease is the sole right to attempt a delivery for some minutes ([`lease_span`]). It keeps two
//! instances from doing the same work, and it ends by itself when its holder dies. It is longer than
//! anything waits in memory as a rule; what waited longer is not started (an attempt must end within its
//! lease) but forgotten, and claimed again when the lease has lapsed. Each lease has a token, and an
//! outcome counts only under the token its row still carries. So a receiver may get a webhook
//! twice, with one `webhook-id`, but a stalled holder cannot undo what a later one recorded. A
//! server that starts again lets go at once of what it held when it died; other servers wait for the
//! leases to lapse.
//!
//! # Secrets
//! An attempt is signed by every secret in use when it starts, as far as its endpoint was known when
//! the lease was taken. So a rotation takes effect with the next lease: at once for what is claimed or
//! planned from then on, and within [`lease_span`] for what waits in memory, which the old secret signs
//! alone. Its receiver takes that, or refuses it and gets the retry, which is signed by both. A secret
//! that cannot be read fails the attempt: nothing is sent unsigned.
//!
//! # Suspensions
//! Endpoints of a suspended organisation are disabled in the store, which parks their deliveries. What
//! waits in memory is handed back when its turn comes (`paused`), and uses up no attempt.
//!
//! # Failure
//! - A receiver that is slow or down costs its own endpoint: it holds at most its slots and its
//!   share of the memory (`lanes.rs`), and the others are served in turn.
//! - A store outage stops claims, then recording, then, as outcomes fill their queue, sending.
//! - Soft stop: no more claims; what was not started is handed back, due at once; attempts in flight
//!   end; outcomes are recorded; then the tasks end. Hard stop, or a crash: leases lapse.
//!
//! **Invariant:** a delivery leaves memory only with its outcome in the store, or with its lease left to
//! lapse. Nothing is acknowledged to anyone before.
//!
//! **Invariant:** memory is bounded: `DELIVERY_QUEUE_CAPACITY` deliveries, `DELIVERY_CONCURRENCY`
//! attempts among them, and a fixed queue of outcomes.

mod attempt;
mod breaker;
mod dispatcher;
mod endpoint_rate;
mod failure;
mod handle;
mod handoff;
mod health;
mod lanes;
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
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::DeliveryConfig;
use crate::domain::InstanceId;
use crate::runtime::{Clock, Lifecycle, Shutdown, Wake};
use crate::store::{Store, StoreError};
use crate::telemetry::Metrics;

use attempt::Attempter;
use dispatcher::{Claims, Dispatcher, DispatcherOptions, Evictions};
use lanes::{LaneLimits, Lanes};
use recorder::{QUEUE_OUTCOMES, Recorder};
use sender::{Sender, SenderOptions};
use throttle::EndpointThrottles;

pub use handle::DeliveryHandle;
pub use handoff::{HandoffReceiver, HandoffSenders};
pub use health::DeliveryHealth;
pub use resolver::{DnsResolver, SystemResolver};
pub use signer::{Verifier, sign};
pub use ssrf_guard::SsrfGuard;
pub use suspended_orgs::SuspendedOrgs;

/// Why delivery cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The HTTP client cannot be set up, say because the system has no root certificates.
    #[error("cannot set up the webhook client: {0:?}")]
    Client(#[from] reqwest::Error),
    /// `WEBHOOK_CA_FILE` cannot be used.
    #[error("WEBHOOK_CA_FILE={}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// How long deliveries are leased for: `DELIVERY_LEASE`, or four attempts' time where that is longer.
/// Whoever leases deliveries to hand them over leases them for this long.
pub fn lease_span(config: &DeliveryConfig) -> Duration {
    config.delivery_lease.max(config.delivery_timeout * 4)
}

/// The channels over which leased deliveries are handed to the dispatcher, and the end it has.
///
/// They hold half of `DELIVERY_QUEUE_CAPACITY` (the lanes hold the other half), and two at least.
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

/// What [`start`] returns.
#[derive(Clone, Debug)]
pub struct RunningDelivery {
    /// Evicts deliveries from memory, and tells which endpoints are backpressured.
    pub handle: DeliveryHandle,
    /// Heartbeats for the health check.
    pub health: DeliveryHealth,
}

/// Starts delivery: attempts handed-off deliveries, and claims due ones from the store at every wake and
/// every poll.
pub fn start(
    config: &DeliveryConfig,
    store: Store,
    clock: Clock,
    metrics: Arc<Metrics>,
    inputs: DeliveryInputs,
    lifecycle: &Lifecycle,
) -> Result<RunningDelivery, DeliveryError> {
    let service = DeliveryService::new(config, store, clock, metrics, inputs)?;
    let (handle, health) = (service.handle(), service.dispatcher.health.clone());
    service.start(lifecycle);
    Ok(RunningDelivery { handle, health })
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
        metrics: Arc<Metrics>,
        inputs: DeliveryInputs,
    ) -> Result<Self, DeliveryError> {
        let DeliveryInputs { handoff, wake, instance, suspended, resolver } = inputs;
        let options = options(config, instance);
        let sending = SenderOptions {
            connect_timeout: config.delivery_connect_timeout,
            timeout: config.delivery_timeout,
            // One host may serve the endpoints of many tenants, all the attempts in flight among them.
            idle_per_host: options.limits.slots,
        };
        let authorities =
            config.webhook_ca_file.as_deref().map(sender::read_authorities).transpose()?;
        let guard = SsrfGuard::new(&config.destinations);
        let sender = Sender::new(guard, resolver, sending, authorities.unwrap_or_default())?;
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
            store,
            clock,
            metrics,
            attempter: Arc::new(attempter),
            wake,
            suspended,
            handoff,
            lanes: Lanes::new(options.limits),
            claims: Claims::default(),
            throttles: EndpointThrottles::new(config.endpoint_concurrency as usize),
            wait: None,
            handle: DeliveryHandle::new(),
            evictions: Evictions::default(),
            steps: JoinSet::new(),
            health,
        };
        Ok(Self { dispatcher, recorder })
    }

    /// The handle that the rest of the process holds.
    pub fn handle(&self) -> DeliveryHandle {
        self.dispatcher.handle.clone()
    }

    /// Runs until the soft stop.
    pub fn start(self, lifecycle: &Lifecycle) {
        let shutdown: Shutdown = lifecycle.shutdown();
        lifecycle.spawn("delivery dispatcher", self.dispatcher.run(shutdown));
        // Ends when the dispatcher and the last attempt are gone, and with them all senders.
        lifecycle.spawn("delivery recorder", self.recorder.run());
    }

    /// Claims once what is due, attempts it and what was handed over, records every outcome, and
    /// returns how many were attempted. For tests, which have their own clock.
    pub async fn run_once(&mut self) -> Result<usize, StoreError> {
        let Self { dispatcher, recorder } = self;
        let mut pass = pin!(dispatcher.run_once());
        let attempted = loop {
            tokio::select! {
                attempted = &mut pass => break attempted,
                _ = recorder.run_once() => {}
            }
        };
        recorder.flush().await;
        attempted
    }
}

fn options(config: &DeliveryConfig, instance: InstanceId) -> DispatcherOptions {
    let capacity = config.delivery_queue_capacity as usize;
    DispatcherOptions {
        limits: LaneLimits {
            // What `handoff` leaves.
            capacity: capacity.div_ceil(2),
            slots: config.delivery_concurrency as usize,
        },
        timeout: config.delivery_timeout,
        instance,
        lease: lease_span(config),
        poll_interval: config.delivery_poll_interval,
    }
}
