//! Authentication against a real SQLite store: caching, hashing and invalidation.

mod load;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hookgate::app::Metrics;
use hookgate::auth::CacheLookup;
use hookgate::auth::{
    AuthError, Authenticator, ConnectionKeyCache, Principal, issue_key, watch_changed_keys,
};
use hookgate::config::{AuthConfig, StoreConfig};
use hookgate::domain::{Actor, ApiKeyId, Org, OrgChange, OrgId, OrgLimit, Role, Scopes, Timestamp};
use hookgate::runtime::{Clock, Lifecycle, Stopwatch, Wake};
use hookgate::store::Store;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::support::forged_key;
use crate::support::wait::until;

const START: Timestamp = Timestamp::from_micros(1_769_860_800_000_000);
/// The address of the client.
fn client() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// So short that every look-up finds the entry expired.
const NO_TTL: Duration = Duration::from_nanos(1);

struct World {
    store: Store,
    clock: Clock,
    metrics: Metrics,
    config: AuthConfig,
    authenticator: Authenticator,
    org: OrgId,
    _dir: TempDir,
}

impl World {
    async fn start() -> Self {
        Self::with_ttl(Duration::from_hours(1)).await
    }

    /// Rows are read again before the next use once they are past the TTL.
    async fn with_ttl(ttl: Duration) -> Self {
        Self::with(|config| (config.auth_cache_ttl, config.auth_cache_stale_max) = (ttl, ttl)).await
    }

    async fn with(configure: impl FnOnce(&mut AuthConfig)) -> Self {
        let dir = crate::support::temporary::directory();
        let config =
            StoreConfig { database_connections: 4, ..StoreConfig::in_directory(dir.path()) };
        let metrics = Metrics::new().unwrap();
        let path = config.sqlite_path();
        let store = Store::open_sqlite(&path, &config, Arc::clone(&metrics.store)).await.unwrap();
        store.migrate_up().await.unwrap();
        let mut org = Org::new(OrgId::mint(START), "acme", START);
        org.limits = org.limits.with(OrgLimit::RatePerMinute, Some(7));
        store.system().insert_org(&org, &Actor::CLI).await.unwrap();
        let mut config = AuthConfig {
            auth_cache_ttl: Duration::from_hours(1),
            auth_cache_stale_max: Duration::from_hours(24),
            auth_cache_capacity: 100,
            auth_poll_interval: Duration::from_millis(1),
            failed_keys_per_minute: 10_000,
        };
        configure(&mut config);
        let clock = Clock::manual(START);
        let authenticator =
            Authenticator::new(&config, store.clone(), clock.clone(), Arc::clone(&metrics.auth));
        Self { store, clock, metrics, config, authenticator, org: org.id, _dir: dir }
    }

    async fn key(&self) -> (ApiKeyId, String) {
        let role = Role::Tenant(self.org);
        let issued = issue_key(role, "test".to_owned(), self.clock.now()).await.unwrap();
        self.store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
        (issued.record.id, issued.key.reveal().to_owned())
    }

    async fn ask(&self, key: &str) -> Result<Arc<Principal>, AuthError> {
        self.authenticator.authenticate(key, client).await
    }

    /// The next timestamp: no two changes have the same.
    fn moment(&self) -> Timestamp {
        self.clock.advance(Duration::from_micros(1));
        self.clock.now()
    }

    async fn revoke(&self, key: ApiKeyId) {
        let now = self.moment();
        assert!(self.store.system().expire_key(key, now, &Actor::CLI, now).await.unwrap());
    }

    fn hashes(&self) -> u64 {
        self.metrics.auth.auth_hashes_total.get()
    }

    fn lookups(&self) -> (u64, u64) {
        let count = |result| self.metrics.auth.cache_lookups_total.of(result).get();
        (count(CacheLookup::Hit), count(CacheLookup::Miss))
    }

    /// Watches for changes until the returned lifecycle drains.
    fn watch(&self) -> Lifecycle {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn(
            "key watch",
            watch_changed_keys(
                self.authenticator.clone(),
                Wake::new(),
                self.config.auth_poll_interval,
                lifecycle.shutdown(),
            ),
        );
        lifecycle
    }
}

#[tokio::test]
async fn key_is_looked_up_and_hashed_once() {
    let world = World::start().await;
    let (key_id, key) = world.key().await;
    for _ in 0..3 {
        let principal = world.ask(&key).await.unwrap();
        assert_eq!((principal.key_id, principal.role), (key_id, Role::Tenant(world.org)));
        assert_eq!(principal.limits.get(OrgLimit::RatePerMinute), Some(7));
        assert_eq!((principal.scopes, principal.suspended), (Scopes::TENANT, false));
    }
    assert_eq!(world.lookups(), (2, 1));
    assert_eq!(world.hashes(), 1);
}

#[tokio::test]
async fn concurrent_first_requests_share_one_hash() {
    let world = World::start().await;
    let (_, key) = world.key().await;
    let answers = join_all((0..50).map(|_| world.ask(&key))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(world.hashes(), 1);
}

#[tokio::test]
async fn row_is_read_again_before_use_beyond_the_longest_stale_time_without_a_hash() {
    let world = World::with_ttl(NO_TTL).await;
    let (id, key) = world.key().await;
    for _ in 0..3 {
        world.ask(&key).await.unwrap();
    }
    assert_eq!(world.lookups(), (0, 3));
    assert_eq!(world.hashes(), 1);
    // A wrong secret for a key in use needs no hash either.
    assert!(matches!(world.ask(&forged_key(id, 1)).await, Err(AuthError::WrongSecret)));
    assert_eq!(world.hashes(), 1);
    // Without telling the authenticator: reading the row is enough.
    world.revoke(id).await;
    assert!(matches!(world.ask(&key).await, Err(AuthError::Expired)));
}

#[tokio::test]
async fn change_invalidates_a_key_once() {
    let world = World::start().await;
    let (key_id, key) = world.key().await;
    for _ in 0..3 {
        world.ask(&key).await.unwrap();
        world.authenticator.invalidate_changed().await.unwrap();
    }
    assert_eq!(world.lookups(), (1, 2), "the first poll may have come after a change");
    let change = OrgChange {
        name: None,
        limits: vec![(OrgLimit::RatePerMinute, Some(9))],
        ..OrgChange::default()
    };
    world.store.update_org(world.org, &change, &Actor::CLI, START).await.unwrap();
    for _ in 0..3 {
        world.authenticator.invalidate_changed().await.unwrap();
        let principal = world.ask(&key).await.unwrap();
        assert_eq!(principal.limits.get(OrgLimit::RatePerMinute), Some(9));
    }
    assert_eq!(world.lookups(), (3, 3), "rows read since the change are current");
    world.revoke(key_id).await;
    world.authenticator.invalidate_changed().await.unwrap();
    assert!(matches!(world.ask(&key).await, Err(AuthError::Expired)));
}

#[tokio::test]
async fn connection_cache_is_valid_as_long_as_the_key_cache() {
    let world = World::start().await;
    let (key_id, key) = world.key().await;
    let (_, other) = world.key().await;
    let last = ConnectionKeyCache::default();
    let ask = async |key: &str| {
        world.authenticator.authenticate_on_connection(key, &last, Stopwatch::start(), client).await
    };
    for presented in [&key, &key, &other, &key] {
        ask(presented).await.unwrap();
    }
    assert_eq!(world.lookups(), (2, 2));
    assert!(matches!(ask(&key[..40]).await, Err(AuthError::Malformed)));
    world.revoke(key_id).await;
    assert!(ask(&key).await.is_ok(), "not invalidated yet");
    world.authenticator.invalidate(key_id);
    assert!(matches!(ask(&key).await, Err(AuthError::Expired)));
    ask(&other).await.unwrap();
}

#[tokio::test]
async fn connection_reads_its_key_again_after_the_ttl() {
    let world = World::with_ttl(NO_TTL).await;
    let (key_id, key) = world.key().await;
    let last = ConnectionKeyCache::default();
    world
        .authenticator
        .authenticate_on_connection(&key, &last, Stopwatch::start(), client)
        .await
        .unwrap();
    world.revoke(key_id).await;
    let again = world
        .authenticator
        .authenticate_on_connection(&key, &last, Stopwatch::start(), client)
        .await;
    assert!(matches!(again, Err(AuthError::Expired)));
}

#[tokio::test]
async fn flood_of_wrong_secrets_costs_no_hash_and_does_not_affect_the_right_one() {
    let world = World::start().await;
    let (id, key) = world.key().await;
    // Before the key was ever verified here, and after.
    for _ in 0..2 {
        for seed in 0..200 {
            let refused = world.ask(&forged_key(id, seed)).await;
            assert!(matches!(refused, Err(AuthError::WrongSecret)), "{refused:?}");
        }
        world.ask(&key).await.unwrap();
    }
    assert_eq!(world.hashes(), 1);
}

#[tokio::test]
async fn unknown_and_malformed_keys_have_distinct_errors_and_cost_no_hash() {
    let world = World::start().await;
    let unknown = forged_key(ApiKeyId::mint(START), 1);
    assert!(matches!(world.ask(&unknown).await, Err(AuthError::Unknown)));
    assert!(matches!(world.ask(&unknown[..80]).await, Err(AuthError::Malformed)));
    assert_eq!(world.hashes(), 0);
}

#[tokio::test]
async fn expired_key_is_rejected_from_its_end_on() {
    let world = World::start().await;
    let (id, key) = world.key().await;
    let end = START.plus(Duration::from_mins(1));
    assert!(world.store.system().expire_key(id, end, &Actor::CLI, START).await.unwrap());
    world.ask(&key).await.unwrap();
    world.clock.advance(Duration::from_millis(59_999));
    world.ask(&key).await.unwrap();
    world.clock.advance(Duration::from_millis(1));
    assert!(matches!(world.ask(&key).await, Err(AuthError::Expired)));
}

#[tokio::test]
async fn revoked_key_is_rejected_at_once_even_for_callers_waiting_for_its_check() {
    let world = World::start().await;
    let (id, key) = world.key().await;
    world.ask(&key).await.unwrap();
    world.revoke(id).await;
    world.authenticator.invalidate(id);
    assert!(matches!(world.ask(&key).await, Err(AuthError::Expired)));

    let (id, key) = world.key().await;
    let mut waiting = JoinSet::new();
    let authenticator = world.authenticator.clone();
    waiting.spawn(async move { authenticator.authenticate(&key, client).await });
    // The check has read the row and hashes for many milliseconds.
    until("the key is being hashed", async || world.hashes() >= 2).await;
    world.revoke(id).await;
    world.authenticator.invalidate(id);
    let answer = waiting.join_next().await.unwrap().unwrap();
    assert!(matches!(answer, Err(AuthError::Expired)), "{answer:?}");
}

#[tokio::test]
async fn change_by_another_process_is_noticed_by_polling() {
    let world = World::start().await;
    let (id, key) = world.key().await;
    world.ask(&key).await.unwrap();
    let watch = world.watch();

    let limit = OrgLimit::RatePerMinute;
    let change = OrgChange { name: None, limits: vec![(limit, Some(9))], ..OrgChange::default() };
    world.store.update_org(world.org, &change, &Actor::CLI, world.moment()).await.unwrap();
    until("the limit is noticed", async || {
        world.ask(&key).await.unwrap().limits.get(limit) == Some(9)
    })
    .await;
    world.revoke(id).await;
    until("the revocation is noticed", async || world.ask(&key).await.is_err()).await;
    assert!(matches!(world.ask(&key).await, Err(AuthError::Expired)));
    assert_eq!(world.hashes(), 1);
    assert!(watch.drain(Duration::from_secs(30)).await);
}

#[tokio::test]
async fn change_by_a_process_with_another_clock_is_noticed() {
    for ahead in [false, true] {
        let world = World::start().await;
        let (id, key) = world.key().await;
        let watch = world.watch();
        world.ask(&key).await.unwrap();
        world.clock.advance(Duration::from_hours(2));
        let hours = if ahead { 4 } else { 0 };
        let theirs = START.plus(Duration::from_hours(hours));
        world.store.suspend_org(world.org, true, &Actor::CLI, theirs).await.unwrap();
        until("the suspension is noticed", async || world.ask(&key).await.unwrap().suspended).await;
        world.store.system().expire_key(id, START, &Actor::CLI, theirs).await.unwrap();
        until("the revocation is noticed", async || world.ask(&key).await.is_err()).await;
        assert!(watch.drain(Duration::from_secs(30)).await);
    }
}

#[tokio::test]
async fn known_keys_work_during_a_store_outage_and_others_are_not_rejected() {
    let world = World::start().await;
    let ((_, known), (_, other)) = (world.key().await, world.key().await);
    world.ask(&known).await.unwrap();
    world.store.close().await;
    world.ask(&known).await.unwrap();
    // Twice: an outage is not cached.
    for _ in 0..2 {
        assert!(matches!(world.ask(&other).await, Err(AuthError::Unavailable(_))));
    }
}
