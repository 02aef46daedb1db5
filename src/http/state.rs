//! Application state: the subsystems that handlers may call, behind one pointer.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::byte_budget::ByteBudget;
use super::inbox_limit::InboxLimits;
use super::metrics::ApiMetrics;
use super::pipeline_health::{OldestDue, PipelineHealth};
use super::scrapes::Scrapes;
use super::settling::Settling;
use super::stream_limits::StreamLimits;
use crate::analytics::SummaryCache;
use crate::api::{Refusal, Subsystems};
use crate::auth::Authenticator;
use crate::config::{Config, ENVELOPE_BYTES_MAX, MetricsSet, Networks, Origins};
use crate::delivery::{DeliveryHealth, Inboxes, SsrfGuard};
use crate::domain::{NewEventLimits, OrgId, OrgLimit, OrgLimits, Timestamp};
use crate::ingest::Intake;
use crate::limit::{ConcurrencyLimiter, FairSemaphore, RateLimiter, Reader};
use crate::runtime::{Gate, Heartbeat, Shutdown, Stopwatch};
use crate::telemetry::Tracer;

/// A ping that takes longer counts as an outage: a probe must answer before its caller gives up.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// The store is pinged once in this time at most, since probes need no key.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// How long a read waits for one of the same caller to end.
const READ_WAIT_MAX: Duration = Duration::from_millis(500);

/// The subsystems, for handlers. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// The subsystems that the composition root passes in.
pub struct Parts {
    /// What use cases work with.
    pub subsystems: Subsystems,
    /// Verifies keys.
    pub authenticator: Authenticator,
    /// Limits organisations.
    pub limiter: RateLimiter,
    /// Accepts events.
    pub intake: Intake,
    /// Heartbeats of delivery.
    pub delivery_health: DeliveryHealth,
    /// Beats whenever a batch of accepted events is stored.
    pub ingest: Heartbeat,
    /// The metrics that the API counts or shows.
    pub metrics: ApiMetrics,
    /// Records the spans of requests that post events.
    pub tracer: Tracer,
    /// Open once the store is migrated and checked, which needs it to take writes.
    pub store_started: Gate,
    /// The background runtime, for work that yields to requests.
    pub background: Handle,
    /// Signals shutdown.
    pub shutdown: Shutdown,
}

/// The API's settings.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Bytes in one event's payload at most.
    pub(super) event_bytes_max: usize,
    /// Bytes in the body of a batch at most.
    pub(super) batch_bytes_max: usize,
    /// Bytes of a body that are received after its request was answered, at most.
    pub(super) drained_bytes_max: usize,
    /// Share of requests that are logged.
    pub(super) access_log_ratio: f64,
    /// Which URLs endpoints may have.
    pub(super) guard: SsrfGuard,
    /// A request that is not answered by then gets 503.
    pub(super) request_timeout: Duration,
    /// Maximum time of a read, and of its wait for a connection.
    pub(super) read_timeout: Duration,
    /// The wait for a request's head, and for an answer to be read, ends then.
    pub(super) head_timeout: Duration,
    /// Connections at once.
    pub(super) connections_max: u32,
    /// Connections at once from one address.
    pub(super) connections_per_address: u32,
    /// Origins whose web pages may call.
    pub(super) cors_origins: Origins,
    /// For how long a browser need not ask again what they may send.
    pub(super) cors_max_age: Duration,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub(super) trusted_proxies: Networks,
    /// Whether the server itself speaks TLS.
    pub(super) speaks_tls: bool,
    /// A stage that makes no progress for this long while work waits is stalled.
    pub(super) stall_after: Duration,
    /// Which metrics are shown.
    pub(super) metrics_set: MetricsSet,
}

/// [`Parts`], and the API's own state.
struct Shared {
    parts: Parts,
    /// With the store's connections for reads.
    reads: Subsystems,
    /// With those to the replica.
    replica_reads: Subsystems,
    read_limiter: ConcurrencyLimiter<Reader>,
    /// One permit per connection for reads.
    read_connections: FairSemaphore<Reader>,
    settings: Settings,
    bodies: ByteBudget,
    answers: ByteBudget,
    streams: StreamLimits,
    inbox_limits: InboxLimits,
    settling: Settling,
    summaries: SummaryCache,
    started: Stopwatch,
    last_ping: Mutex<Option<(Stopwatch, bool)>>,
    last_due: Mutex<Option<(Stopwatch, DueAt)>>,
    scrapes: Scrapes,
}

/// Since when the oldest due delivery waits; `Err` if the store does not answer.
type DueAt = Result<Option<Timestamp>, ()>;

impl AppState {
    /// State over these parts; the uptime counts from here.
    pub fn new(config: &Config, parts: Parts) -> Self {
        parts.metrics.process.set_constants(parts.subsystems.clock.now().seconds());
        let metrics = &parts.metrics.http;
        let bodies = metrics.hookgate_request_body_bytes_in_flight.clone();
        let answers = metrics.hookgate_answer_bytes_in_flight.clone();
        let store = &parts.subsystems.store;
        let reads = Subsystems { store: store.for_reads(), ..parts.subsystems.clone() };
        let replica_reads =
            Subsystems { store: store.for_replica_reads(), ..parts.subsystems.clone() };
        let split = store.connection_split();
        let (connections, general) = (split.reads as usize, split.general as usize);
        let per_reader = config.limit.reads_per_org as usize;
        let streams_max = config.limit.streams_max.min(config.server.connections_max.div_ceil(2));
        let streams_open = metrics.hookgate_streams_open.clone();
        let streams_per_org = config.limit.streams_per_org as usize;
        Self(Arc::new(Shared {
            bodies: ByteBudget::new(config.bodies_in_flight_bytes(), bodies),
            answers: ByteBudget::new(config.answers_in_flight_bytes(), answers),
            streams: StreamLimits::new(streams_max as usize, streams_per_org, streams_open),
            inbox_limits: InboxLimits::new(general),
            settling: Settling::new(parts.shutdown.clone()),
            summaries: SummaryCache::new(parts.subsystems.clock.clone()),
            parts,
            reads,
            replica_reads,
            read_limiter: ConcurrencyLimiter::new(per_reader, READ_WAIT_MAX),
            read_connections: FairSemaphore::new(connections),
            settings: Settings::from(config),
            started: Stopwatch::start(),
            last_ping: Mutex::new(None),
            last_due: Mutex::new(None),
            scrapes: Scrapes::default(),
        }))
    }

    /// What use cases work with.
    pub(super) fn subsystems(&self) -> &Subsystems {
        &self.0.parts.subsystems
    }

    /// What lists and look-ups work with: they have connections and a time limit of their own.
    pub(super) fn reads(&self) -> &Subsystems {
        &self.0.reads
    }

    /// What lists and look-ups of events, deliveries and what is counted of them work with: as [`Self::reads`], from
    /// the replica if there is one.
    pub(super) fn replica_reads(&self) -> &Subsystems {
        &self.0.replica_reads
    }

    /// Looks something up by its id: on the replica, and what is not there, perhaps not yet, on the primary.
    ///
    /// # Errors
    /// Those of `look`.
    pub(super) async fn look_up<T, F: Future<Output = Result<T, Refusal>>>(
        &self,
        look: impl Fn(Subsystems) -> F,
    ) -> Result<T, Refusal> {
        match look(self.replica_reads().clone()).await {
            Err(Refusal::NotFound(_)) if self.replica_reads().store.reads_replica() => {
                look(self.reads().clone()).await
            }
            found => found,
        }
    }

    /// Limits reads in progress.
    pub(super) fn read_limiter(&self) -> &ConcurrencyLimiter<Reader> {
        &self.0.read_limiter
    }

    /// Shares the connections for reads out.
    pub(super) fn read_connections(&self) -> &FairSemaphore<Reader> {
        &self.0.read_connections
    }

    /// The API's settings.
    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The budget of request bodies that are received or worked on.
    pub(super) fn bodies(&self) -> &ByteBudget {
        &self.0.bodies
    }

    /// The budget of answers that are not written yet.
    pub(super) fn answers(&self) -> &ByteBudget {
        &self.0.answers
    }

    /// Limits long polls, event streams and exports.
    pub(super) fn streams(&self) -> &StreamLimits {
        &self.0.streams
    }

    /// Limits what consumers of inboxes have in progress.
    pub(super) fn inbox_limits(&self) -> &InboxLimits {
        &self.0.inbox_limits
    }

    /// The consumers of inboxes; `None` without a server.
    pub(super) fn inboxes(&self) -> Option<&Inboxes> {
        Some(self.subsystems().server.as_ref()?.delivery.inboxes())
    }

    /// Requests with an idempotency key that run to their end.
    pub(super) fn settling(&self) -> &Settling {
        &self.0.settling
    }

    /// Summaries of accounts that were read lately.
    pub(super) fn summaries(&self) -> &SummaryCache {
        &self.0.summaries
    }

    /// The deliveries that events of these types and accounts become; `None` while it is not known.
    pub(super) fn planned_deliveries<'a>(
        &self,
        org: OrgId,
        events: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Option<usize> {
        self.subsystems().server.as_ref()?.delivery.planned(org, events)
    }

    /// Scrapes of the metrics.
    pub(super) fn scrapes(&self) -> &Scrapes {
        &self.0.scrapes
    }

    /// The time since the start.
    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Whether the store answers. Callers share a ping, and its result for a moment.
    pub(super) async fn store_is_reachable(&self) -> bool {
        let mut last = self.0.last_ping.lock().await;
        if let Some((at, reachable)) = *last
            && at.elapsed() < PING_INTERVAL
        {
            return reachable;
        }
        let reachable = match tokio::time::timeout(PING_TIMEOUT, self.subsystems.store.ping()).await
        {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store does not answer");
                false
            }
            Err(_) => {
                tracing::warn!(timeout = ?PING_TIMEOUT, "the store does not answer in time");
                false
            }
        };
        *last = Some((Stopwatch::start(), reachable));
        reachable
    }
}

impl AppState {
    /// How long events have waited at each stage. Callers share the store's answer for a moment.
    pub(super) async fn pipeline_health(&self) -> PipelineHealth {
        let due_at = self.oldest_due().await;
        let (now, schedule) = (self.subsystems.clock.now(), self.subsystems.clock.schedule());
        let age = |since: Timestamp| now.since(since);
        PipelineHealth {
            oldest_unplanned: self.intake.status().oldest_unacked.map(age),
            planning: self.ingest.age(),
            oldest_due: match due_at {
                Ok(None) => OldestDue::None,
                Ok(Some(due_at)) => OldestDue::Waits(schedule.since(due_at)),
                Err(()) => OldestDue::Unknown,
            },
            delivering: self.delivery_health.progress.age(),
            dispatcher: self.delivery_health.dispatcher.age(),
            recording: self.delivery_health.recording.age(),
        }
    }

    async fn oldest_due(&self) -> DueAt {
        let mut last = self.0.last_due.lock().await;
        if let Some((at, due_at)) = *last
            && at.elapsed() < PING_INTERVAL
        {
            return due_at;
        }
        let server = self.subsystems.server.as_ref();
        let paused = server.map(|server| server.delivery.paused()).unwrap_or_default();
        let store = self.subsystems.store.for_keys();
        let asking = store.system().oldest_due(self.subsystems.clock.schedule(), &paused);
        let due_at = match tokio::time::timeout(PING_TIMEOUT, asking).await {
            Ok(Ok(due_at)) => Ok(due_at),
            // The ping logs it.
            Ok(Err(_)) | Err(_) => Err(()),
        };
        *last = Some((Stopwatch::start(), due_at));
        due_at
    }
}

impl Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}

impl Settings {
    /// Events in a batch at most.
    pub(super) const BATCH_EVENTS_MAX: usize = 1_000;
    /// Bytes beyond the largest body that are received of one that is too large.
    const OVERFLOW_BYTES_MAX: usize = 1024 * 1024;

    /// Bytes in the body of a single event at most.
    pub(super) const fn event_body_bytes_max(limits: &NewEventLimits) -> usize {
        limits.payload_bytes_max + ENVELOPE_BYTES_MAX
    }

    /// What an event of an organisation with these limits may measure.
    pub(super) fn new_event_limits(&self, limits: &OrgLimits) -> NewEventLimits {
        let own = limits.get(OrgLimit::PayloadBytes).map_or(usize::MAX, |bytes| bytes as usize);
        NewEventLimits {
            payload_bytes_max: self.event_bytes_max.min(own),
            batch_events_max: Self::BATCH_EVENTS_MAX,
        }
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            event_bytes_max: config.ingest.max_event_bytes as usize,
            batch_bytes_max: config.ingest.max_batch_bytes as usize,
            drained_bytes_max: config.body_bytes_max() + Self::OVERFLOW_BYTES_MAX,
            access_log_ratio: config.telemetry.access_log_ratio,
            guard: SsrfGuard::new(&config.delivery.destinations),
            request_timeout: config.server.request_timeout,
            read_timeout: config.store.read_timeout,
            head_timeout: config.server.head_timeout,
            connections_max: config.server.connections_max,
            // One client must not hold all of them, however few they are.
            connections_per_address: config
                .server
                .connections_per_address
                .min(config.server.connections_max.div_ceil(2)),
            cors_origins: config.server.cors_origins.clone(),
            cors_max_age: config.server.cors_max_age,
            trusted_proxies: config.server.trusted_proxies.clone(),
            speaks_tls: config.server.tls_cert.is_some(),
            // While every attempt hangs, nothing makes progress before they time out.
            stall_after: config
                .delivery
                .delivery_stall_after
                .max(config.delivery.delivery_timeout * 2),
            metrics_set: config.telemetry.metrics,
        }
    }
}
