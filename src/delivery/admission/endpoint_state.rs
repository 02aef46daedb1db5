//! What admission knows of one endpoint: what waits and what is in flight, how fast its receiver is, and what
//! holds it back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::breaker::{AttemptKind, Breaker, Permit};
use crate::delivery::endpoint_rate::EndpointRate;
use crate::domain::{Endpoint, EndpointKind, OrgId};
use crate::runtime::{Backoff, Monotonic};

/// Deliveries wait in memory only if their endpoint, at its recent rate, starts them within this time.
pub(super) const QUEUE_TIME: Duration = Duration::from_millis(250);
/// Maximum deliveries that wait in memory for one endpoint.
const QUEUE_MAX: usize = 1_024;
/// An endpoint whose attempts take longer than this is slow.
const SLOW: Duration = Duration::from_secs(1);
/// A claim for one endpoint is worth a statement when it brings the work of this time.
const CLAIM_WORTH: Duration = Duration::from_millis(20);
/// How long nothing is claimed of an endpoint that alone makes a claim fail; it doubles from then on.
const CLAIM_HOLD_FIRST: Duration = Duration::from_secs(1);
const CLAIM_HOLD_MAX: Duration = Duration::from_mins(1);
/// The weight of the newest attempt in the mean duration.
const NEWEST_WEIGHT: f64 = 0.2;

/// A delivery that waits for its slot.
#[derive(Debug)]
pub(super) struct Waiting<T> {
    pub(super) delivery: T,
    /// Bytes of its payload.
    pub(super) bytes: usize,
    /// A manual one is not held back by an open breaker.
    pub(super) kind: AttemptKind,
}

/// The state of one endpoint.
#[derive(Debug)]
pub(super) struct EndpointState<T> {
    /// The endpoint as it was last known.
    pub(super) endpoint: Arc<Endpoint>,
    /// Whether it is disabled or removed, or of a kind that nothing is sent to.
    pub(super) is_off: bool,
    /// Whether it has changed in an unknown way since.
    pub(super) is_unknown: bool,
    /// Counts the times that it was enabled or moved.
    pub(super) generation: u32,
    /// Until when nothing is sent because it answered 410.
    pub(super) gone_until: Option<Monotonic>,
    pub(super) waiting: VecDeque<Waiting<T>>,
    /// Places reserved for deliveries that are being stored or claimed.
    pub(super) reserved: usize,
    /// Of these, with a slot.
    pub(super) promised: usize,
    /// When the attempts in flight began.
    pub(super) in_flight: Vec<Monotonic>,
    /// Whether an attempt that was requested by hand waits or is in flight.
    pub(super) has_manual: bool,
    /// Mean duration of an attempt, in seconds; `None` before the first.
    mean: Option<f64>,
    pub(super) breaker: Breaker,
    rate: Option<EndpointRate>,
    /// The number of times that deliveries were left in the store since it was last known to have none that are
    /// due; 0 while it has none.
    pub(super) left_in_store: u64,
    /// What holds claims of it back, if the last one failed because of it.
    claim_hold: Option<ClaimHold>,
}

/// How long nothing is claimed of an endpoint.
#[derive(Clone, Copy, Debug)]
struct ClaimHold {
    until: Monotonic,
    /// Has the next one.
    backoff: Backoff,
}

/// What holds an endpoint back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hold {
    /// Nothing.
    None,
    /// Its breaker or its rate limit, until then.
    Until(Monotonic),
    /// A probe in flight, or that it is disabled.
    Closed,
}

impl<T> EndpointState<T> {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self {
            is_off: !is_sent_to(&endpoint),
            endpoint,
            is_unknown: false,
            generation: 0,
            gone_until: None,
            waiting: VecDeque::new(),
            reserved: 0,
            promised: 0,
            in_flight: Vec::new(),
            has_manual: false,
            mean: None,
            breaker: Breaker::default(),
            rate: None,
            left_in_store: 0,
            claim_hold: None,
        }
    }

    /// A claim failed because of it: nothing more is claimed of it for a while.
    pub(super) fn hold_claims(&mut self, now: Monotonic) {
        let mut backoff = self
            .claim_hold
            .map_or(Backoff::new(CLAIM_HOLD_FIRST, CLAIM_HOLD_MAX), |hold| hold.backoff);
        let until = now.plus(backoff.next_wait());
        self.claim_hold = Some(ClaimHold { until, backoff });
    }

    /// A claim of it has worked.
    pub(super) fn resume_claims(&mut self) {
        self.claim_hold = None;
    }

    /// Until when nothing is claimed of it because that failed.
    pub(super) fn claims_held_until(&self, now: Monotonic) -> Option<Monotonic> {
        self.claim_hold.map(|hold| hold.until).filter(|until| *until > now)
    }

    /// Takes over what the endpoint is now; `None` when it was disabled or removed. One that was enabled or moved
    /// starts afresh.
    pub(super) fn update(&mut self, endpoint: Option<&Arc<Endpoint>>) {
        let Some(endpoint) = endpoint.filter(|endpoint| is_sent_to(endpoint)) else {
            self.is_off = true;
            self.left_in_store = 0;
            return;
        };
        let is_fresh = self.is_off || self.is_enabled_again(endpoint);
        if is_fresh || endpoint.url != self.endpoint.url {
            self.breaker.reset();
            self.generation = self.generation.wrapping_add(1);
            self.mean = None;
            self.gone_until = None;
        }
        self.is_off = false;
        self.is_unknown = false;
        self.endpoint = Arc::clone(endpoint);
    }

    /// Whether it was disabled and enabled between two looks. An open breaker or a 410 has failures behind it, which the
    /// store knows of until the endpoint is enabled, or an attempt by another server succeeds, or one that began before.
    fn is_enabled_again(&self, new: &Endpoint) -> bool {
        let is_newer = new.version > self.endpoint.version;
        let is_held = self.breaker.is_open() || self.gone_until.is_some();
        is_newer && is_held && new.failing_since.is_none()
    }

    /// Notes that it has changed in an unknown way: nothing is sent to it as it was.
    pub(super) fn forget(&mut self) {
        self.is_unknown = true;
    }

    /// Has any version replace what the endpoint is now.
    pub(super) fn forget_version(&mut self) {
        Arc::make_mut(&mut self.endpoint).version = 0;
    }

    pub(super) fn org(&self) -> OrgId {
        self.endpoint.org_id
    }

    /// Deliveries in memory, with those that have a place.
    pub(super) fn held(&self) -> usize {
        self.waiting.len() + self.reserved + self.in_flight.len()
    }

    /// Whether nothing here is worth remembering.
    pub(super) fn is_idle(&self, now: Monotonic) -> bool {
        self.held() == 0
            && self.left_in_store == 0
            && self.breaker == Breaker::default()
            && self.rate.is_none_or(|rate| rate.ready_at() <= now)
    }

    /// Whether its attempts take long, or one in flight does.
    pub(super) fn is_slow(&self, now: Monotonic) -> bool {
        self.mean.is_some_and(|mean| mean > SLOW.as_secs_f64())
            || self.in_flight.iter().any(|began| now.since(*began) > SLOW)
    }

    /// Whether its attempts are known to be quick.
    pub(super) fn is_known_quick(&self, now: Monotonic) -> bool {
        self.mean.is_some() && !self.is_slow(now)
    }

    /// Maximum attempts in flight to it.
    pub(super) fn concurrency(&self, default: usize) -> usize {
        if self.endpoint.policy.ordered {
            return 1;
        }
        let own = self.endpoint.policy.max_concurrency;
        own.and_then(|own| usize::try_from(own).ok()).unwrap_or(default)
    }

    /// Maximum deliveries that may wait for it here, whatever room there is and whatever its rate limit.
    pub(super) fn queue_max(&self, concurrency: usize, now: Monotonic) -> usize {
        if self.endpoint.policy.ordered || !self.is_known_quick(now) {
            return 0;
        }
        self.work(concurrency, QUEUE_TIME).min(QUEUE_MAX)
    }

    /// Maximum deliveries that may wait or be reserved for it because of its rate limit, which starts no more within
    /// [`QUEUE_TIME`]: at least one.
    pub(super) fn rate_max(&self) -> usize {
        let rate = self.endpoint.policy.rate_limit_per_second;
        rate.map_or(usize::MAX, |rate| work(f64::from(rate), QUEUE_TIME).max(1))
    }

    /// How many deliveries make a claim for it alone worthwhile, of `room` that it has at most.
    pub(super) fn worth_claiming(&self, concurrency: usize, room: usize) -> usize {
        self.work(concurrency, CLAIM_WORTH).clamp(1, room.div_ceil(2).max(1))
    }

    /// How many attempts it makes in a time.
    fn work(&self, concurrency: usize, span: Duration) -> usize {
        let Some(mean) = self.mean else { return 0 };
        let concurrency = u32::try_from(concurrency).unwrap_or(u32::MAX);
        work(f64::from(concurrency) / mean.max(1e-4), span)
    }

    /// What holds back an attempt that starts now or within `ahead`.
    pub(super) fn hold(&self, kind: AttemptKind, now: Monotonic, ahead: Duration) -> Hold {
        if self.is_off || self.is_unknown {
            return Hold::Closed;
        }
        if let Some(until) = self.gone_until.filter(|until| *until > now) {
            return Hold::Until(until);
        }
        match self.breaker.permit(kind, now) {
            Permit::DenyUntil(until) => return Hold::Until(until),
            Permit::DenyWhileProbing => return Hold::Closed,
            Permit::Probe if self.held() > 0 && !ahead.is_zero() => return Hold::Closed,
            Permit::Probe | Permit::Allow => {}
        }
        let limited = self.rate.filter(|_| self.endpoint.policy.rate_limit_per_second.is_some());
        match limited.map(EndpointRate::ready_at) {
            Some(ready) if ready > now.plus(ahead) => Hold::Until(ready),
            Some(_) | None => Hold::None,
        }
    }

    /// Whether what is queued for it now would keep its bytes for longer than deliveries wait in memory, or for the attempt
    /// that is to show whether a pause is over.
    pub(super) fn is_held_for_long(&self, now: Monotonic) -> bool {
        let paused_until = self.gone_until.max(self.breaker.paused_until(now));
        let is_paused = paused_until.is_some_and(|until| until > now.plus(QUEUE_TIME));
        let is_busy = !self.waiting.is_empty() || !self.in_flight.is_empty();
        self.is_unknown || is_paused || self.breaker.is_open() && is_busy
    }

    /// Whether the next attempt is the probe of an open breaker.
    pub(super) fn is_probing(&self, now: Monotonic) -> bool {
        self.breaker.permit(AttemptKind::Scheduled, now) == Permit::Probe
    }

    /// An attempt starts. `true` if it is the probe of a breaker.
    pub(super) fn start(&mut self, kind: AttemptKind, now: Monotonic) -> bool {
        self.in_flight.push(now);
        if let Some(per_second) = self.endpoint.policy.rate_limit_per_second {
            self.rate.get_or_insert(EndpointRate::new(now)).start(per_second, now);
        }
        self.breaker.start(kind, now)
    }

    /// An attempt that began then has ended.
    pub(super) fn end(&mut self, began: Monotonic, now: Monotonic) {
        if let Some(index) = self.in_flight.iter().position(|other| *other == began) {
            self.in_flight.swap_remove(index);
        }
        let took = now.since(began).as_secs_f64();
        let mean = self.mean.map_or(took, |mean| mean + NEWEST_WEIGHT * (took - mean));
        self.mean = Some(mean);
    }
}

fn is_sent_to(endpoint: &Endpoint) -> bool {
    endpoint.disabled_reason.is_none() && endpoint.kind == EndpointKind::Webhook
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts from floating point saturate, and the factors are positive"
)]
fn work(per_second: f64, span: Duration) -> usize {
    (per_second * span.as_secs_f64()).ceil() as usize
}
