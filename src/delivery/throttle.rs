//! What each endpoint lets through now: its breaker, its rate limit and its concurrency in one place.
//!
//! Kept in memory only. A server that starts again, and each of several servers, finds out for
//! itself that an endpoint is away.

use std::collections::HashMap;

use crate::domain::{Endpoint, EndpointId, Timestamp};

use super::breaker::{Breaker, Health, Permit};
use super::endpoint_rate::EndpointRate;

/// Endpoints that something is remembered of at most: those that fail, and those that were sent
/// something under a rate limit within the last second. Of more, only the rate limits are kept.
const GATES_MAX: usize = 16_384;
/// How many seconds' worth of deliveries may wait in memory for an endpoint with a rate limit.
const PACED_SECONDS: u32 = 10;

/// The gates of all endpoints.
#[derive(Debug)]
pub(super) struct EndpointThrottles {
    /// For endpoints without a `max_concurrency` of their own.
    concurrency: usize,
    by_endpoint: HashMap<EndpointId, Gate>,
}

#[derive(Clone, Copy, Debug)]
struct Gate {
    breaker: Breaker,
    pace: Option<EndpointRate>,
}

/// Whether an attempt may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum StartDecision {
    /// It may.
    Now,
    /// Not before this moment.
    At(Timestamp),
    /// Not before another one has ended, or the store was asked again.
    Later,
}

impl EndpointThrottles {
    /// EndpointThrottles that let everything through.
    pub(super) fn new(concurrency: usize) -> Self {
        Self { concurrency, by_endpoint: HashMap::new() }
    }

    /// Whether an attempt may start at `endpoint`, to which so many are in flight.
    pub(super) fn admission(
        &self,
        endpoint: &Endpoint,
        under_way: usize,
        now: Timestamp,
    ) -> StartDecision {
        if under_way >= self.concurrency_of(endpoint) {
            return StartDecision::Later;
        }
        match self.passage(endpoint.id, now) {
            Permit::ShutUntil(_) | Permit::Probing => return StartDecision::Later,
            Permit::Probe | Permit::Open => {}
        }
        let pace = self.by_endpoint.get(&endpoint.id).and_then(|gate| gate.pace);
        match pace.filter(|_| endpoint.policy.rate_limit_per_second.is_some()) {
            Some(pace) if pace.ready_at() > now => StartDecision::At(pace.ready_at()),
            Some(_) | None => StartDecision::Now,
        }
    }

    /// An attempt starts. `true` when it is the probe of a breaker.
    pub(super) fn start(&mut self, endpoint: &Endpoint, now: Timestamp) -> bool {
        if let Some(per_second) = endpoint.policy.rate_limit_per_second {
            let gate = self.remember(endpoint.id);
            gate.pace.get_or_insert(EndpointRate::new(now)).start(per_second, now);
        }
        self.by_endpoint.get_mut(&endpoint.id).is_some_and(|gate| gate.breaker.start(now))
    }

    /// An attempt has ended. Says whether the breaker has opened or closed by it.
    pub(super) fn end(
        &mut self,
        endpoint: EndpointId,
        probe: bool,
        health: Health,
        now: Timestamp,
    ) -> BreakerTransition {
        if health == Health::Works && !self.by_endpoint.contains_key(&endpoint) {
            return BreakerTransition::None;
        }
        if self.is_full_without(endpoint, now) {
            return BreakerTransition::None;
        }
        let gate = self.remember(endpoint);
        let was_open = gate.breaker.is_open();
        gate.breaker.end(probe, health, now);
        let is_open = gate.breaker.is_open();
        let gate = *gate;
        if !gate.is_needed(now) {
            self.by_endpoint.remove(&endpoint);
        }
        match (was_open, is_open) {
            (false, true) => BreakerTransition::Opened,
            (true, true) if probe => BreakerTransition::Opened,
            (true, false) => BreakerTransition::Closed,
            (false, false) | (true, true) => BreakerTransition::None,
        }
    }

    /// What the breaker of an endpoint lets through.
    pub(super) fn passage(&self, endpoint: EndpointId, now: Timestamp) -> Permit {
        self.by_endpoint.get(&endpoint).map_or(Permit::Open, |gate| gate.breaker.passage(now))
    }

    /// The endpoints whose breakers are open.
    pub(super) fn open(&self) -> impl Iterator<Item = EndpointId> {
        let open = self.by_endpoint.iter().filter(|(_, gate)| gate.breaker.is_open());
        open.map(|(endpoint, _)| *endpoint)
    }

    /// How many deliveries may wait in memory for an endpoint with a rate limit.
    pub(super) fn waiting_max(endpoint: &Endpoint) -> Option<usize> {
        let per_second = endpoint.policy.rate_limit_per_second?;
        usize::try_from(per_second.saturating_mul(PACED_SECONDS)).ok()
    }

    fn concurrency_of(&self, endpoint: &Endpoint) -> usize {
        if endpoint.policy.ordered {
            return 1;
        }
        let own = endpoint.policy.max_concurrency;
        own.and_then(|own| usize::try_from(own).ok()).unwrap_or(self.concurrency)
    }

    /// Whether there is no room to remember another one, not even when all that matters least is
    /// forgotten.
    fn is_full_without(&mut self, endpoint: EndpointId, now: Timestamp) -> bool {
        if self.by_endpoint.len() < GATES_MAX || self.by_endpoint.contains_key(&endpoint) {
            return false;
        }
        self.by_endpoint.retain(|_, gate| gate.breaker.is_open() || gate.is_paced(now));
        self.by_endpoint.len() >= GATES_MAX
    }

    fn remember(&mut self, endpoint: EndpointId) -> &mut Gate {
        let new = Gate { breaker: Breaker::default(), pace: None };
        self.by_endpoint.entry(endpoint).or_insert(new)
    }
}

/// How a breaker has turned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BreakerTransition {
    /// It has not.
    None,
    /// It holds everything back from now on, or does so for longer.
    Opened,
    /// It lets everything through again.
    Closed,
}

impl Gate {
    fn is_needed(&self, now: Timestamp) -> bool {
        self.breaker != Breaker::default() || self.is_paced(now)
    }

    fn is_paced(&self, now: Timestamp) -> bool {
        self.pace.is_some_and(|pace| pace.ready_at() > now)
    }
}
