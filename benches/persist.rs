//! How fast batches of 500 events, one delivery each, become rows of a SQLite file or a PostgreSQL
//! database, and how fast their outcomes do.
//!
//! ```sh
//! cargo bench --bench persist
//! BENCH_DATABASE_URL=postgres://… cargo bench --bench persist   # PostgreSQL beside it, an empty database
//! ```
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hookgate::app::Metrics;
use hookgate::domain::{
    Actor, Attempt, Decision, Endpoint, Event, EventId, InstanceId, Lease, LeaseToken,
    LeasedDelivery, Org, OrgId, Outcome, SigningSecret, TraceId,
};
use hookgate::runtime::Clock;
use hookgate::store::{EventBatch, OrgEndpoints, Persisted, Store, plan_deliveries};
use tokio::runtime::Runtime;

use support::store_config;

const BATCH: usize = 500;
const ORGS: usize = 20;

/// Half of the events carry a dedup id of their own.
fn batch(orgs: &[OrgId], clock: &Clock) -> Vec<Arc<Event>> {
    let received_at = clock.now();
    let event = |place: usize| {
        let org_id = orgs[place % orgs.len()];
        let minted = EventId::mint(received_at);
        let dedup_id = place.is_multiple_of(2).then(|| minted.to_string());
        let id = dedup_id.as_deref().map_or(minted, |d| EventId::from_dedup_id(org_id, d));
        Arc::new(Event {
            id,
            org_id,
            event_type: "user.login".parse().unwrap(),
            payload: Bytes::from(vec![b'7'; 100]),
            dedup_id,
            account_id: Some("acc_12345678".to_owned()),
            user_id: None,
            occurred_at: None,
            received_at,
            trace_id: TraceId::mint(),
            accept_span: None,
        })
    };
    (0..BATCH).map(event).collect()
}

async fn tenants(store: &Store, clock: &Clock) -> Vec<OrgId> {
    let created_at = clock.now();
    let mut orgs = Vec::new();
    for _ in 0..ORGS {
        let id = OrgId::mint(created_at);
        let name = "bench".to_owned();
        let org = Org::new(id, name, created_at);
        store.system().insert_org(&org, &Actor::CLI).await.unwrap();
        let url = "https://example.com/hooks".parse().unwrap();
        let secret = SigningSecret::generate().unwrap();
        let endpoint = Endpoint::new(id, url, secret, created_at);
        store.insert_endpoint(id, &endpoint, &Actor::CLI).await.unwrap().unwrap();
        orgs.push(id);
    }
    orgs
}

/// Plans and stores events, every delivery leased, the endpoints known from before.
async fn store_events(
    store: &Store,
    endpoints: &HashMap<OrgId, Arc<OrgEndpoints>>,
    events: &[Arc<Event>],
    clock: &Clock,
) -> Persisted {
    let mut deliveries = plan_deliveries(events, endpoints);
    for planned in &mut deliveries {
        planned.leased = true;
    }
    let now = clock.now();
    let token = LeaseToken::mint(InstanceId::new(1));
    let lease = Some(Lease { token, until: now.plus(Duration::from_mins(1)) });
    let batch = EventBatch { events, endpoints, deliveries: &deliveries, lease };
    store.system().persist_events(batch, now).await.unwrap()
}

fn delivered(leased: &LeasedDelivery, clock: &Clock) -> Outcome {
    let decided_at = clock.now();
    let attempt = Attempt {
        number: 1,
        started_at: decided_at,
        duration_ms: 3,
        status_code: Some(200),
        error_class: None,
        error: None,
        response_excerpt: Some("ok".to_owned()),
    };
    leased.outcome(Some(attempt), Decision::Delivered, decided_at, decided_at)
}

fn measure(criterion: &mut Criterion, name: &str, runtime: &Runtime, store: &Store) {
    let clock = Clock::system();
    let orgs = runtime.block_on(async {
        store.migrate_up().await.unwrap();
        store.system().maintain(clock.now()).await.unwrap();
        tenants(store, &clock).await
    });
    let endpoints = runtime.block_on(store.system().org_endpoints(&orgs)).unwrap();
    let mut group = criterion.benchmark_group(name);
    group.sample_size(50).measurement_time(Duration::from_secs(8));
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("persist_500", |bencher| {
        bencher.to_async(runtime).iter_batched(
            || batch(&orgs, &clock),
            async |events| store_events(store, &endpoints, &events, &clock).await,
            BatchSize::PerIteration,
        );
    });
    group.bench_function("record_500", |bencher| {
        let planned = || {
            let events = batch(&orgs, &clock);
            let call = store_events(store, &endpoints, &events, &clock);
            let persisted = tokio::task::block_in_place(|| runtime.handle().block_on(call));
            persisted.leased.iter().map(|leased| delivered(leased, &clock)).collect::<Vec<_>>()
        };
        bencher.to_async(runtime).iter_batched(
            planned,
            async |outcomes| store.system().record_outcomes(&outcomes).await.unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn persist(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = store_config(directory.path());
    let metrics = || Metrics::new().unwrap().store;
    let store = runtime.block_on(Store::open_sqlite(&config.sqlite_path(), &config, metrics()));
    measure(criterion, "sqlite", &runtime, &(store.unwrap()));
    if let Ok(url) = std::env::var("BENCH_DATABASE_URL") {
        let store = runtime.block_on(Store::connect_postgres(&url, &config, metrics()));
        measure(criterion, "postgres", &runtime, &(store.unwrap()));
    }
}

criterion_group!(benches, persist);
criterion_main!(benches);
