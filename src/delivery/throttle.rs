//! Per-endpoint throttles: circuit breaker, rate limit and concurrency limit in one place.
//!
//! They live in memory only, per server: after a restart, and on each of several servers, a breaker starts
//! closed.

use std::collections::HashMap;

use crate::domain::{Endpoint, EndpointId};
use crate::runtime::Monotonic;

use super::breaker::{AttemptKind, AttemptSignal, Breaker, Permit};
use super::endpoint_rate::EndpointRate;

/// Maximum endpoints with tracked state: those that fail, and those with a rate limit that was used in the
/// last second. Beyond it, breakers of further endpoints stay closed.
const THROTTLES_MAX: usize = 16_384;
/// Deliveries to an endpoint with a rate limit that may wait in memory, in seconds of that rate.
const RATE_BACKLOG_SECONDS: u32 = 10;

/// The throttles of all endpoints.
#[derive(Debug)]
pub(super) struct EndpointThrottles {
    /// The limit for endpoints that set no `max_concurrency`.
    concurrency: usize,
    by_endpoint: HashMap<EndpointId, EndpointThrottle>,
}

#[derive(Clone, Copy, Debug)]
struct EndpointThrottle {
    breaker: Breaker,
    rate: Option<EndpointRate>,
}

/// Whether an attempt may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StartDecision {
    /// Yes.
    Now,
    /// Not before this time.
    At(Monotonic),
    /// Not before another attempt ends or the store is polled again.
    Later,
}

impl EndpointThrottles {
    /// Throttles with closed breakers.
    pub(super) fn new(concurrency: usize) -> Self {
        Self { concurrency, by_endpoint: HashMap::new() }
    }

    /// Whether another attempt may start while `in_flight` attempts to the endpoint are in flight.
    pub(super) fn start_decision(
        &self,
        endpoint: &Endpoint,
        in_flight: usize,
        now: Monotonic,
    ) -> StartDecision {
        if in_flight >= self.concurrency_of(endpoint) {
            return StartDecision::Later;
        }
        match self.permit(endpoint.id, now) {
            Permit::DenyUntil(_) | Permit::DenyWhileProbing => return StartDecision::Later,
            Permit::Probe | Permit::Allow => {}
        }
        let rate = self.by_endpoint.get(&endpoint.id).and_then(|throttle| throttle.rate);
        match rate.filter(|_| endpoint.policy.rate_limit_per_second.is_some()) {
            Some(rate) if rate.ready_at() > now => StartDecision::At(rate.ready_at()),
            Some(_) | None => StartDecision::Now,
        }
    }

    /// An attempt starts. `true` if it is the probe of a breaker.
    pub(super) fn start(&mut self, endpoint: &Endpoint, now: Monotonic) -> bool {
        if let Some(per_second) = endpoint.policy.rate_limit_per_second {
            let throttle = self.remember(endpoint.id);
            throttle.rate.get_or_insert(EndpointRate::new(now)).start(per_second, now);
        }
        self.by_endpoint
            .get_mut(&endpoint.id)
            .is_some_and(|throttle| throttle.breaker.start(AttemptKind::Scheduled, now))
    }

    /// An attempt has ended. Returns how the breaker changed.
    pub(super) fn end(
        &mut self,
        endpoint: EndpointId,
        probe: bool,
        signal: AttemptSignal,
        now: Monotonic,
    ) -> BreakerTransition {
        if signal == AttemptSignal::Success && !self.by_endpoint.contains_key(&endpoint) {
            return BreakerTransition::None;
        }
        if self.is_full_without(endpoint, now) {
            return BreakerTransition::None;
        }
        let throttle = self.remember(endpoint);
        let was_open = throttle.breaker.is_open();
        throttle.breaker.end(probe, signal, now);
        let is_open = throttle.breaker.is_open();
        let throttle = *throttle;
        if !throttle.is_needed(now) {
            self.by_endpoint.remove(&endpoint);
        }
        match (was_open, is_open) {
            (false, true) => BreakerTransition::Opened,
            (true, true) if probe => BreakerTransition::Opened,
            (true, false) => BreakerTransition::Closed,
            (false, false) | (true, true) => BreakerTransition::None,
        }
    }

    /// What the breaker of an endpoint permits.
    pub(super) fn permit(&self, endpoint: EndpointId, now: Monotonic) -> Permit {
        self.by_endpoint
            .get(&endpoint)
            .map_or(Permit::Allow, |throttle| throttle.breaker.permit(AttemptKind::Scheduled, now))
    }

    /// The endpoints whose breakers are open.
    pub(super) fn open(&self) -> impl Iterator<Item = EndpointId> {
        let open = self.by_endpoint.iter().filter(|(_, throttle)| throttle.breaker.is_open());
        open.map(|(endpoint, _)| *endpoint)
    }

    /// Maximum deliveries that wait in memory for an endpoint; `None` without a rate limit.
    pub(super) fn backlog_max(endpoint: &Endpoint) -> Option<usize> {
        let per_second = endpoint.policy.rate_limit_per_second?;
        usize::try_from(per_second.saturating_mul(RATE_BACKLOG_SECONDS)).ok()
    }

    fn concurrency_of(&self, endpoint: &Endpoint) -> usize {
        if endpoint.policy.ordered {
            return 1;
        }
        let own = endpoint.policy.max_concurrency;
        own.and_then(|own| usize::try_from(own).ok()).unwrap_or(self.concurrency)
    }

    /// Whether another endpoint cannot be tracked, even after idle state was dropped.
    fn is_full_without(&mut self, endpoint: EndpointId, now: Monotonic) -> bool {
        if self.by_endpoint.len() < THROTTLES_MAX || self.by_endpoint.contains_key(&endpoint) {
            return false;
        }
        self.by_endpoint
            .retain(|_, throttle| throttle.breaker.is_open() || throttle.is_rate_limited(now));
        self.by_endpoint.len() >= THROTTLES_MAX
    }

    fn remember(&mut self, endpoint: EndpointId) -> &mut EndpointThrottle {
        let new = EndpointThrottle { breaker: Breaker::default(), rate: None };
        self.by_endpoint.entry(endpoint).or_insert(new)
    }
}

/// How a breaker has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BreakerTransition {
    /// It has not changed.
    None,
    /// It has opened, or has opened again after a failed probe.
    Opened,
    /// It has closed.
    Closed,
}

impl EndpointThrottle {
    fn is_needed(&self, now: Monotonic) -> bool {
        self.breaker != Breaker::default() || self.is_rate_limited(now)
    }

    fn is_rate_limited(&self, now: Monotonic) -> bool {
        self.rate.is_some_and(|rate| rate.ready_at() > now)
    }
}
