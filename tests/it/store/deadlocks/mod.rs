//! No two operations of the store deadlock in PostgreSQL.
//!
//! Every pair of operations runs at the same time on the same organisations, endpoints and deliveries. The endpoints
//! are stored in the reverse order of their ids, so that a statement which locks them as it finds them does
//! it in the wrong order.

mod inboxes;
mod operations;
mod removals;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hookgate::domain::{
    Actor, ApiKeyId, Endpoint, EndpointId, Event, LeasedDelivery, OrgId, Role, Timestamp,
};
use hookgate::store::{Result, Store, StoreError};
use sqlx::{Connection, PgConnection};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::Subject;
use super::fixtures::{at, some_endpoint, some_event, some_key, some_org};
use crate::support::store::{persist_events, room};
use operations::{OPERATIONS, Operation};

/// Databases that share out the pairs: most of the time is spent waiting.
const PARTS: usize = 3;
/// Calls of each operation of a pair.
const CALLS: usize = 3;
/// How much later each call is than the one before, in seconds: the health of endpoints is written again after a
/// minute.
const STEP: i64 = 61;

/// Makes a change of each row that is locked together with others take a millisecond, so that locks are held while other
/// transactions take theirs.
const SLOW_DOWN: &str = "
    CREATE FUNCTION slow_down() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(0.001);
        RETURN coalesce(NEW, OLD);
    END
    $$;
    CREATE TRIGGER slow_endpoints BEFORE UPDATE OR DELETE ON endpoints
        FOR EACH ROW EXECUTE FUNCTION slow_down();
    CREATE TRIGGER slow_keys BEFORE UPDATE OR DELETE ON api_keys
        FOR EACH ROW EXECUTE FUNCTION slow_down();
    CREATE TRIGGER slow_dead_letters BEFORE UPDATE OR DELETE ON dead_letters
        FOR EACH ROW EXECUTE FUNCTION slow_down();";

/// Makes what the last pair did undone: endpoints are enabled again, and fail.
const RESET: &str = "
    SET session_replication_role = replica;
    DELETE FROM pending_deliveries;
    DELETE FROM dead_letters;
    DELETE FROM replays;
    DELETE FROM endpoints WHERE removed_at IS NOT NULL;
    UPDATE endpoints SET disabled_reason = NULL, cancel_before = NULL, failing_since = created_at
    WHERE NOT suspended;";

/// What the operations have in common.
struct World {
    subject: Subject,
    tenants: [Tenant; 2],
    /// The next organisation to be deleted.
    doomed: Mutex<Tenant>,
    calls: AtomicI64,
}

#[derive(Clone)]
struct Tenant {
    org: OrgId,
    endpoints: Vec<EndpointId>,
    keys: Vec<ApiKeyId>,
}

impl World {
    async fn new(subject: Subject) -> Self {
        let first = Tenant::add(&subject.store).await.unwrap();
        let second = Tenant::add(&subject.store).await.unwrap();
        let doomed = Mutex::new(Tenant::add(&subject.store).await.unwrap());
        Self { subject, tenants: [first, second], doomed, calls: AtomicI64::new(0) }
    }

    /// The time of the next call.
    fn now(&self) -> Timestamp {
        at(STEP * self.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// Every tenant, the one that is deleted next included.
    async fn tenants(&self) -> [Tenant; 3] {
        let [first, second] = self.tenants.clone();
        [first, second, self.doomed.lock().await.clone()]
    }

    /// A tenant that stays, and the one that is deleted next.
    async fn two_tenants(&self) -> [Tenant; 2] {
        [self.tenants[0].clone(), self.doomed.lock().await.clone()]
    }

    /// Stores an event of each tenant and leases its deliveries.
    async fn leased(&self, store: &Store, now: Timestamp) -> Result<Vec<LeasedDelivery>> {
        let event = |tenant: &Tenant| Arc::new(some_event(tenant.org, "a.b", now));
        let events: Vec<Arc<Event>> = self.tenants().await.iter().map(event).collect();
        let until = at(1).plus(now.since(at(0)));
        Ok(persist_events(store, &events, Some(room(99, until)), now).await?.leased)
    }
}

impl Tenant {
    async fn add(store: &Store) -> Result<Self> {
        let org = some_org(at(0));
        store.system().insert_org(&org, &Actor::CLI).await?;
        let mut ids: Vec<EndpointId> = (0..3).map(|_| EndpointId::mint(at(0))).collect();
        ids.sort_unstable();
        for (age, id) in ids.iter().rev().enumerate() {
            let mut endpoint = Endpoint { id: *id, ..some_endpoint(org.id, "a.*,hookgate.*") };
            endpoint.created_at = at(i64::try_from(age).unwrap());
            endpoint.policy.ordered = age == 0;
            store.insert_endpoint(org.id, &endpoint, &Actor::CLI).await?.unwrap();
        }
        let mut keys: Vec<_> = (0..2).map(|_| some_key(Role::Tenant(org.id), at(0))).collect();
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(key.id));
        for key in &keys {
            store.system().insert_key(key, &Actor::CLI).await?.unwrap();
        }
        let keys = keys.iter().map(|key| key.id).collect();
        Ok(Self { org: org.id, endpoints: ids, keys })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_operations_deadlock() {
    let parts: JoinSet<BTreeSet<String>> = (0..PARTS).map(failures_of).collect();
    let failures: BTreeSet<String> = parts.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Runs a part of the pairs in a database of its own and returns what failed.
async fn failures_of(part: usize) -> BTreeSet<String> {
    let subject = Subject::postgres().await;
    let other = subject.another().await;
    let mut connection = PgConnection::connect(&subject.url()).await.unwrap();
    sqlx::raw_sql(SLOW_DOWN).execute(&mut connection).await.unwrap();
    let world = Arc::new(World::new(subject).await);
    let mut failures = BTreeSet::new();
    for pair in pairs().into_iter().skip(part).step_by(PARTS) {
        sqlx::raw_sql(RESET).execute(&mut connection).await.unwrap();
        for failure in run_together(&world, pair, &other).await {
            failures.insert(format!("{} with {}: {failure}", pair[0].name, pair[1].name));
        }
    }
    // A connection reports what it counted at the latest when it ends.
    world.subject.store.close().await;
    other.close().await;
    let deadlocks: i64 = sqlx::query_scalar(
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    if deadlocks > 0 {
        failures.insert(format!("{deadlocks} deadlocks in part {part}"));
    }
    failures
}

/// Every two operations, and each with itself.
fn pairs() -> Vec<[&'static Operation; 2]> {
    let mut pairs = Vec::new();
    for (number, one) in OPERATIONS.iter().enumerate() {
        pairs.extend(OPERATIONS[..=number].iter().map(|another| [one, another]));
    }
    pairs
}

/// Runs two operations at the same time, each in an instance of its own, and returns the errors.
async fn run_together(
    world: &Arc<World>,
    pair: [&'static Operation; 2],
    other: &Store,
) -> Vec<StoreError> {
    let mut calls = JoinSet::new();
    for (operation, store) in pair.into_iter().zip([&world.subject.store, other]) {
        let (world, store) = (Arc::clone(world), store.clone());
        calls.spawn(async move {
            let mut errors = Vec::new();
            for _ in 0..CALLS {
                errors.extend((operation.run)(&world, &store).await.err());
            }
            errors
        });
    }
    calls.join_all().await.into_iter().flatten().collect()
}
