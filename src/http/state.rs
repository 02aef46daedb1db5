//! What every handler may reach: the parts of the process, behind one pointer.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::auth::Authenticator;
use crate::config::{Config, Networks, Origins};
use crate::delivery::Guard;
use crate::domain::DraftLimits;
use crate::ingest::Intake;
use crate::limit::RateLimiter;
use crate::runtime::{Clock, Shutdown, Stopwatch, Wake};
use crate::store::SharedStore;
use crate::telemetry::Metrics;

/// A ping that takes longer counts as an outage: a probe must answer before its caller gives up.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// The store is pinged once in this time at the most, since probes need no key.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// The parts of the process, for handlers. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// The parts that the composition root hands over.
pub struct Parts {
    /// The store.
    pub store: SharedStore,
    /// Verifies keys.
    pub authenticator: Authenticator,
    /// Limits organisations.
    pub limiter: RateLimiter,
    /// Takes events in.
    pub intake: Intake,
    /// Wakes whoever delivers.
    pub wake: Wake,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// Tells when the process stops.
    pub shutdown: Shutdown,
}

/// What the configuration says to the API.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Bytes in one event's payload at the most.
    pub(super) event_bytes_max: usize,
    /// Events a minute for an organisation without a limit of its own.
    pub(super) rate_limit_per_minute: u32,
    /// Where endpoints may be.
    pub(super) guard: Guard,
    /// A request that is not answered by then gets 503.
    pub(super) request_timeout: Duration,
    /// The wait for a request's head, and for an answer to be read, ends then.
    pub(super) head_timeout: Duration,
    /// Connections at once from one address.
    pub(super) connections_per_address: u32,
    /// Whose web pages may call.
    pub(super) cors_origins: Origins,
    /// Whose word counts on whom a request came from.
    pub(super) trusted_proxies: Networks,
}

/// [`Parts`], and what the API keeps of its own.
struct Shared {
    parts: Parts,
    settings: Settings,
    started: Stopwatch,
    last_ping: Mutex<Option<(Stopwatch, bool)>>,
}

impl AppState {
    /// Wires the parts; the uptime counts from here.
    pub fn new(config: &Config, parts: Parts) -> Self {
        Self(Arc::new(Shared {
            parts,
            settings: Settings::from(config),
            started: Stopwatch::start(),
            last_ping: Mutex::new(None),
        }))
    }

    /// What the configuration says to the API.
    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The time since the start.
    pub(super) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// Whether the store answers. Callers share a ping, and its answer for a moment.
    pub(super) async fn store_is_reachable(&self) -> bool {
        let mut last = self.0.last_ping.lock().await;
        if let Some((at, reachable)) = *last
            && at.elapsed() < PING_INTERVAL
        {
            return reachable;
        }
        let reachable = match tokio::time::timeout(PING_TIMEOUT, self.store.ping()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the store does not answer a ping");
                false
            }
            Err(_) => {
                tracing::warn!(timeout = ?PING_TIMEOUT, "the store does not answer a ping in time");
                false
            }
        };
        *last = Some((Stopwatch::start(), reachable));
        reachable
    }
}

impl Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}

impl Settings {
    /// Events in a batch at the most.
    pub(super) const BATCH_EVENTS_MAX: usize = 1_000;
    /// Bytes in the body of a batch at the most.
    pub(super) const BATCH_BODY_BYTES_MAX: usize = 5 * 1024 * 1024;
    /// Bytes that an event's body may have beside its payload.
    const ENVELOPE_BYTES_MAX: usize = 16 * 1024;

    /// Bytes in the body of a single event at the most.
    pub(super) const fn event_body_bytes_max(&self) -> usize {
        self.event_bytes_max + Self::ENVELOPE_BYTES_MAX
    }

    /// What an event may measure.
    pub(super) const fn draft_limits(&self) -> DraftLimits {
        DraftLimits {
            payload_bytes_max: self.event_bytes_max,
            batch_events_max: Self::BATCH_EVENTS_MAX,
        }
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            event_bytes_max: config.ingest.max_event_bytes as usize,
            rate_limit_per_minute: config.limit.rate_limit_per_minute,
            guard: Guard::new(&config.delivery.destinations),
            request_timeout: config.server.request_timeout,
            head_timeout: config.server.head_timeout,
            connections_per_address: config.server.connections_per_address,
            cors_origins: config.server.cors_origins.clone(),
            trusted_proxies: config.server.trusted_proxies.clone(),
        }
    }
}
