//! Authentication: the time for cached, uncached and invalid keys; the hit rate of the key cache under load;
//! and how long a key that another server has revoked keeps working.
//!
//! ```sh
//! cargo bench --bench auth
//! BENCH_DATABASE_URL=postgres://… cargo bench --bench auth   # revocation needs an empty database
//! ```
//! Keys are in a SQLite file; look-ups run one after the other, and figures include reading the clock. For
//! revocation keys are in PostgreSQL and polling is practically off, so the figure is that of `LISTEN` and
//! `NOTIFY`.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

mod support;

use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use hookgate::app::Metrics;
use hookgate::auth::CacheLookup;
use hookgate::auth::{
    AuthError, Authenticator, PresentedKey, Principal, issue_key, watch_changed_keys,
};
use hookgate::config::{AuthConfig, defaults};
use hookgate::domain::{Actor, ApiKeyId, Org, OrgId, Role};
use hookgate::runtime::{Clock, Lifecycle, Stopwatch, Wake};
use hookgate::store::Store;
use tokio::time::{sleep, timeout};

use support::store_config;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const KEYS: usize = 300;
const HITS: usize = 100_000;
/// Requests with randomly drawn keys.
const DRAWS: usize = 20_000;
const REVOCATIONS: usize = 20;
/// The pause before a revocation, so that the poll for the previous one is over.
const SETTLED_AFTER: Duration = Duration::from_millis(50);
/// Maximum wait for a notification.
const UNNOTICED_AFTER: Duration = Duration::from_mins(1);

/// A store with keys of one organisation.
struct Bench {
    store: Store,
    clock: Clock,
    keys: Vec<PresentedKey>,
}

impl Bench {
    async fn fill(store: Store, keys: usize) -> Self {
        store.migrate_up().await.unwrap();
        let mut bench = Self { store, clock: Clock::system(), keys: Vec::new() };
        let now = bench.clock.now();
        let org = Org::new(OrgId::mint(now), "bench", now);
        bench.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
        for _ in 0..keys {
            let issued = issue_key(Role::Tenant(org.id), "bench".to_owned(), now).await.unwrap();
            let record = &issued.record;
            bench.store.system().insert_key(record, &Actor::CLI).await.unwrap().unwrap();
            bench.keys.push(issued.key);
        }
        bench
    }

    /// Keys with existing ids and wrong secrets.
    fn forged(&self) -> Vec<PresentedKey> {
        self.keys.iter().map(|key| PresentedKey::generate(key.id()).unwrap()).collect()
    }

    /// Keys with unknown ids.
    fn unknown(&self) -> Vec<PresentedKey> {
        let id = || ApiKeyId::mint(self.clock.now());
        self.keys.iter().map(|_| PresentedKey::generate(id()).unwrap()).collect()
    }

    async fn latencies(&self) {
        let authenticator = self.authenticator(&metrics());
        let known: Vec<_> = self.keys.iter().cycle().take(HITS).collect();
        println!("{:<40} {:>9} {:>12} {:>12}", "", "look-ups", "median", "p99");
        let wrong = |answer: &Answer| matches!(answer, Err(AuthError::WrongSecret));
        let unknown = |answer: &Answer| matches!(answer, Err(AuthError::Unknown));
        measure("wrong secret of a key not cached", &authenticator, &self.forged(), wrong).await;
        measure("unknown id", &authenticator, &self.unknown(), unknown).await;
        measure("good key, first look-up", &authenticator, &self.keys, Result::is_ok).await;
        measure("good key, cached", &authenticator, known, Result::is_ok).await;
        measure("wrong secret of a cached key", &authenticator, &self.forged(), wrong).await;
    }

    async fn hit_ratio(&self) {
        let metrics = metrics();
        let authenticator = self.authenticator(&metrics);
        for place in draw(DRAWS, self.keys.len()) {
            ask(&authenticator, &self.keys[place]).await.unwrap();
        }
        let count =
            |result| u32::try_from(metrics.auth.cache_lookups_total.of(result).get()).unwrap();
        let (hits, misses) = (count(CacheLookup::Hit), count(CacheLookup::Miss));
        let (lookups, keys) = (hits + misses, self.keys.len());
        let percent = 100.0 * f64::from(hits) / f64::from(lookups);
        println!(
            "{keys} keys in turns by chance: {hits} hits of {lookups} look-ups, {percent:.2} %"
        );
    }

    /// Revokes keys here, and presents them to a server on `elsewhere` until it rejects them.
    async fn revocations(&self, elsewhere: Store) {
        let authenticator =
            Authenticator::new(&config(), elsewhere.clone(), self.clock.clone(), metrics().auth);
        let (keys, listening) = (Wake::new(), Wake::new());
        let lifecycle = Lifecycle::new();
        let watch = watch_changed_keys(
            authenticator.clone(),
            keys.clone(),
            UNNOTICED_AFTER,
            lifecycle.shutdown(),
        );
        lifecycle.spawn("key watch", watch);
        let (wakes, stop) = ([keys, listening.clone()], lifecycle.shutdown());
        lifecycle.spawn("change hints", async move {
            tokio::select! {
                () = stop.requested() => {}
                heard = elsewhere.system().hint_changes(&wakes) => heard.unwrap(),
            }
        });
        listening.sleep(UNNOTICED_AFTER).await;

        let mut times = Vec::new();
        for key in &self.keys {
            sleep(SETTLED_AFTER).await;
            ask(&authenticator, key).await.unwrap();
            let now = self.clock.now();
            let by = &Actor::CLI;
            assert!(self.store.system().expire_key(key.id(), now, by, now).await.unwrap());
            let answered = Stopwatch::start();
            timeout(UNNOTICED_AFTER / 2, refusal(&authenticator, key)).await.unwrap();
            times.push(answered.elapsed());
        }
        lifecycle.shutdown().request();
        times.sort_unstable();
        let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
        let count = times.len();
        println!("{count} keys revoked elsewhere: median {median:.1?}, slowest {slowest:.1?}");
    }

    fn authenticator(&self, metrics: &Metrics) -> Authenticator {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        Authenticator::new(&config(), store, clock, Arc::clone(&metrics.auth))
    }
}

type Answer = Result<Arc<Principal>, AuthError>;

async fn ask(authenticator: &Authenticator, key: &PresentedKey) -> Answer {
    authenticator.authenticate(key.reveal(), || CLIENT).await
}

/// Presents the key until it is rejected, yielding in between.
async fn refusal(authenticator: &Authenticator, key: &PresentedKey) {
    while ask(authenticator, key).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// Presents keys, checks the results, and prints the time per key.
async fn measure(
    what: &str,
    authenticator: &Authenticator,
    keys: impl IntoIterator<Item = &PresentedKey>,
    expected: impl Fn(&Answer) -> bool,
) {
    let mut times = Vec::new();
    for key in keys {
        let watch = Stopwatch::start();
        let answer = ask(authenticator, key).await;
        times.push(watch.elapsed());
        assert!(expected(&answer), "{what}: {answer:?}");
    }
    times.sort_unstable();
    let (count, median, p99) = (times.len(), times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("{what:<40} {count:>9} {median:>12.2?} {p99:>12.2?}");
}

/// Pseudo-random numbers below `below`, the same in every run: the upper bits of Knuth's MMIX generator.
fn draw(count: usize, below: usize) -> impl Iterator<Item = usize> {
    let mut state = 1_u64;
    let next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    iter::repeat_with(next).take(count)
}

fn metrics() -> Metrics {
    Metrics::new().unwrap()
}

/// The default settings, without a limit of invalid keys that matters.
fn config() -> AuthConfig {
    AuthConfig { failed_keys_per_minute: 1_000_000, ..defaults() }
}

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().unwrap();
    let config = store_config(directory.path());
    let store = Store::open_sqlite(&config.sqlite_path(), &config, metrics().store).await.unwrap();
    let bench = Bench::fill(store, KEYS).await;
    bench.latencies().await;
    bench.hit_ratio().await;
    if let Ok(url) = std::env::var("BENCH_DATABASE_URL") {
        let connect =
            async || Store::connect_postgres(&url, &config, metrics().store).await.unwrap();
        let bench = Bench::fill(connect().await, REVOCATIONS).await;
        bench.revocations(connect().await).await;
    }
}
