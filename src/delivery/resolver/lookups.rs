//! Look-ups: cached, one at a time per name, and with a share per organisation.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use moka::Expiry;
use moka::future::Cache;

use crate::delivery::metrics::{DeliveryMetrics, LookupResult};
use crate::domain::{OrgId, Timestamp};
use crate::runtime::{Clock, Stopwatch};
use crate::telemetry::Gauge;

use super::permits::Permits;
use super::pinned::PinnedHost;
use super::{DnsAnswer, DnsResolver, LOOKUPS_MAX, LookupError, ORG_LOOKUPS_MAX, WAIT_MAX};

/// Maximum bytes of cached answers, by their weight.
const CACHE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// What an answer weighs without its name and addresses: the cache's own bookkeeping.
const ENTRY_BYTES: usize = 256;

/// Looks names up. Clones share everything.
#[derive(Clone, Debug)]
pub(in crate::delivery) struct Lookups(Arc<LookupState>);

#[derive(Debug)]
struct LookupState {
    resolver: Arc<dyn DnsResolver>,
    /// The longest time of one look-up.
    time_max: Duration,
    /// Also joins the look-ups of several organisations for one name.
    cache: Cache<Arc<str>, DnsAnswer>,
    permits: Permits,
    flights: Mutex<Flights>,
    metrics: Arc<DeliveryMetrics>,
}

/// A look-up that has ended.
#[derive(Clone, Debug)]
pub(in crate::delivery) struct FinishedLookup {
    /// Every address of the name.
    pub(in crate::delivery) host: Result<PinnedHost, LookupError>,
    /// When it began; `None` if the answer was cached.
    pub(in crate::delivery) began_at: Option<Timestamp>,
    /// How long it took, without the wait for a permit.
    pub(in crate::delivery) took: Duration,
}

/// The look-ups of an organisation that wait or are in flight, by name: those who need the same name wait for the
/// same permit.
#[derive(Debug, Default)]
struct Flights {
    by_name: HashMap<(OrgId, Arc<str>), (u64, WeakShared<Flight>)>,
    last: u64,
}

type Flight = BoxFuture<'static, FinishedLookup>;

/// Removes a flight that has ended, or that nobody waits for any more.
struct FlightEnd {
    lookups: Lookups,
    key: (OrgId, Arc<str>),
    number: u64,
}

impl Drop for FlightEnd {
    fn drop(&mut self) {
        let mut flights = self.lookups.flights();
        if flights.by_name.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            flights.by_name.remove(&self.key);
        }
    }
}

/// Counts one in a gauge until it is dropped.
struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn one(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Answers are cached for as long as they say.
struct AnswerExpiry;

impl Expiry<Arc<str>, DnsAnswer> for AnswerExpiry {
    fn expire_after_create(
        &self,
        _: &Arc<str>,
        answer: &DnsAnswer,
        _: Instant,
    ) -> Option<Duration> {
        Some(answer.ttl)
    }

    fn expire_after_update(
        &self,
        _: &Arc<str>,
        answer: &DnsAnswer,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.ttl)
    }
}

impl Lookups {
    /// Look-ups by `resolver`, each of which takes at most `time_max`.
    pub(in crate::delivery) fn new(
        resolver: Arc<dyn DnsResolver>,
        time_max: Duration,
        metrics: Arc<DeliveryMetrics>,
    ) -> Self {
        let cache = Cache::builder()
            .max_capacity(CACHE_BYTES_MAX)
            .weigher(|name: &Arc<str>, answer: &DnsAnswer| weight(name, answer))
            .expire_after(AnswerExpiry)
            .build();
        let permits = Permits::new(LOOKUPS_MAX, ORG_LOOKUPS_MAX);
        let flights = Mutex::default();
        Self(Arc::new(LookupState { resolver, time_max, cache, permits, flights, metrics }))
    }

    /// The addresses of a name, if they are cached.
    pub(in crate::delivery) async fn cached(&self, name: &str) -> Option<PinnedHost> {
        let addresses = self.0.cache.get(name).await?.addresses.ok()?;
        Some(PinnedHost { name: name.into(), addresses })
    }

    /// Looks a name up for an organisation. `None` if it got no permit in time: nothing is known about the name.
    pub(in crate::delivery) async fn find(
        &self,
        org: OrgId,
        name: &str,
        clock: &Clock,
    ) -> Option<FinishedLookup> {
        let name: Arc<str> = name.into();
        if let Some(answer) = self.0.cache.get(&name).await {
            let took = Duration::ZERO;
            return Some(FinishedLookup { host: pin(name, answer), began_at: None, took });
        }
        let flight = self.flight(org, name, clock);
        // What is in flight ends within its own time.
        let finished = tokio::time::timeout(WAIT_MAX + self.0.time_max, flight).await.ok();
        if finished.is_none() {
            self.0.metrics.hookgate_dns_lookups_total.of(LookupResult::NotStarted).inc();
        }
        finished
    }

    /// The organisation's look-up of the name: the one that waits or is in flight, or else a new one.
    fn flight(&self, org: OrgId, name: Arc<str>, clock: &Clock) -> Shared<Flight> {
        let key = (org, name);
        let mut flights = self.flights();
        if let Some(flight) = flights.by_name.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        flights.last += 1;
        let number = flights.last;
        let end = FlightEnd { lookups: self.clone(), key: key.clone(), number };
        let flight = self.clone().fly(end, clock.clone()).boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.by_name.insert(key, (number, weak));
        }
        flight
    }

    /// Waits for a permit and looks the name up.
    async fn fly(self, end: FlightEnd, clock: Clock) -> FinishedLookup {
        let (org, name) = end.key.clone();
        let metrics = &self.0.metrics;
        let waiting = GaugeGuard::one(&metrics.hookgate_dns_lookups_waiting);
        let permit = self.0.permits.acquire(org).await;
        drop(waiting);
        let began_at = Some(clock.now());
        let watch = Stopwatch::start();
        // Another organisation may have found it meanwhile, or be looking it up.
        let answer = self.0.cache.get_with(Arc::clone(&name), self.ask(&name)).await;
        drop(permit);
        FinishedLookup { host: pin(name, answer), began_at, took: watch.elapsed() }
    }

    /// Asks the resolver.
    async fn ask(&self, name: &str) -> DnsAnswer {
        let LookupState { resolver, time_max, metrics, .. } = &*self.0;
        let _counted = GaugeGuard::one(&metrics.hookgate_dns_lookups_in_flight);
        let watch = Stopwatch::start();
        let answer = tokio::time::timeout(*time_max, resolver.lookup(name)).await;
        let answer = answer.unwrap_or_else(|_| DnsAnswer::failed(LookupError::NoAnswer(*time_max)));
        metrics.hookgate_dns_lookup_seconds.observe(watch.seconds());
        metrics.hookgate_dns_lookups_total.of(result(&answer.addresses)).inc();
        answer
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pin(name: Arc<str>, answer: DnsAnswer) -> Result<PinnedHost, LookupError> {
    answer.addresses.map(|addresses| PinnedHost { name, addresses })
}

fn result(addresses: &Result<Arc<[SocketAddr]>, LookupError>) -> LookupResult {
    match addresses {
        Ok(_) => LookupResult::Found,
        Err(LookupError::NoSuchName | LookupError::NoAddress | LookupError::InvalidName) => {
            LookupResult::NotFound
        }
        Err(LookupError::NoAnswer(_)) => LookupResult::TimedOut,
        Err(LookupError::Server(_) | LookupError::Unreachable) => LookupResult::Failed,
    }
}

fn weight(name: &str, answer: &DnsAnswer) -> u32 {
    let addresses = answer.addresses.as_ref().map_or(0, |addresses| size_of_val(&**addresses));
    u32::try_from(ENTRY_BYTES + name.len() + addresses).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures_util::future::join_all;

    use crate::telemetry::Registry;

    use super::*;

    const TIME_MAX: Duration = Duration::from_secs(5);

    /// Never answers names that begin with `silent`, and others once `ttl` is over, if it is not zero.
    #[derive(Debug, Default)]
    struct Script {
        ttl: Duration,
        asked: AtomicUsize,
    }

    #[async_trait]
    impl DnsResolver for Script {
        async fn lookup(&self, name: &str) -> DnsAnswer {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if name.starts_with("silent") {
                std::future::pending::<()>().await;
            }
            tokio::task::yield_now().await;
            let addresses = [SocketAddr::from(([1, 1, 1, 1], 0))];
            DnsAnswer { addresses: Ok(addresses.into()), ttl: self.ttl }
        }
    }

    fn lookups(ttl: Duration) -> (Lookups, Arc<Script>) {
        let script = Arc::new(Script { ttl, asked: AtomicUsize::new(0) });
        let metrics = DeliveryMetrics::register(&Registry::new()).unwrap();
        (Lookups::new(Arc::clone(&script) as Arc<dyn DnsResolver>, TIME_MAX, metrics), script)
    }

    fn org() -> OrgId {
        OrgId::mint(Clock::system().now())
    }

    /// Looks up as many silent names as fill the organisation's share and `more`.
    fn hang(lookups: &Lookups, org: OrgId, more: usize) -> tokio::task::JoinSet<()> {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..ORG_LOOKUPS_MAX + more {
            let lookups = lookups.clone();
            tasks.spawn(async move {
                lookups.find(org, &format!("silent-{number}"), &Clock::system()).await;
            });
        }
        tasks
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn name_is_looked_up_once_for_all_who_wait_and_then_cached() {
        let (lookups, script) = lookups(Duration::from_mins(1));
        let clock = Clock::system();
        assert!(lookups.cached("hooks.example").await.is_none());
        let orgs = [org(), org()];
        let waiting = (0..40).map(|number| lookups.find(orgs[number % 2], "hooks.example", &clock));
        for found in join_all(waiting).await {
            assert_eq!(found.unwrap().host.unwrap().addresses.len(), 1);
        }
        assert!(lookups.cached("hooks.example").await.is_some());
        assert!(lookups.find(org(), "hooks.example", &clock).await.unwrap().began_at.is_none());
        assert_eq!(script.asked.load(Ordering::Relaxed), 1);
        assert!(lookups.flights().by_name.is_empty());
    }

    #[tokio::test]
    async fn answer_without_a_ttl_is_for_those_who_wait_only() {
        let (lookups, script) = lookups(Duration::ZERO);
        for asked in 1..=3 {
            lookups.find(org(), "hooks.example", &Clock::system()).await.unwrap().host.unwrap();
            assert!(lookups.cached("hooks.example").await.is_none());
            assert_eq!(script.asked.load(Ordering::Relaxed), asked);
        }
    }

    #[tokio::test]
    async fn hanging_names_of_an_organisation_hold_its_share_and_delay_no_other() {
        let (lookups, _) = lookups(Duration::from_mins(1));
        let (hanging, other) = (org(), org());
        let _tasks = hang(&lookups, hanging, 4);
        let metrics = Arc::clone(&lookups.0.metrics);
        until(|| metrics.hookgate_dns_lookups_waiting.get() == 4).await;
        assert_eq!(metrics.hookgate_dns_lookups_in_flight.get(), 8);
        // It queues for a name of the other one, which does not wait behind it.
        let clock = Clock::system();
        let mut queued = Box::pin(lookups.find(hanging, "hooks.example", &clock));
        assert!(queued.as_mut().now_or_never().is_none());
        let found = lookups.find(other, "hooks.example", &clock).await.unwrap();
        assert!(found.host.is_ok());
        assert_eq!(metrics.hookgate_dns_lookups_in_flight.get(), 8);
        assert_eq!(metrics.hookgate_dns_lookups_waiting.get(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn lookup_without_an_answer_fails_within_its_time_and_the_failure_is_cached() {
        let (lookups, script) = lookups(Duration::ZERO);
        for _ in 0..2 {
            let found = lookups.find(org(), "silent", &Clock::system()).await.unwrap();
            assert_eq!(found.host.unwrap_err(), LookupError::NoAnswer(TIME_MAX));
        }
        assert_eq!(script.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn lookup_that_gets_no_permit_tells_nothing_about_the_name() {
        let (lookups, _) = lookups(Duration::ZERO);
        let hanging = org();
        // Each round of look-ups takes as long as one may; the last round begins too late.
        let _tasks = hang(&lookups, hanging, 4 * ORG_LOOKUPS_MAX);
        let metrics = Arc::clone(&lookups.0.metrics);
        until(|| metrics.hookgate_dns_lookups_waiting.get() > 0).await;
        assert!(lookups.find(hanging, "hooks.example", &Clock::system()).await.is_none());
        let not_started = metrics.hookgate_dns_lookups_total.of(LookupResult::NotStarted).get();
        assert!(not_started >= 1, "{not_started}");
    }
}
