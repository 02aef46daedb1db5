//! How long a claim takes, with nothing else in the store and with a million deliveries waiting for
//! one dead endpoint, on a SQLite file and in a PostgreSQL database.
//!
//! ```sh
//! cargo bench --bench claims
//! BENCH_DATABASE_URL=postgres://… cargo bench --bench claims   # PostgreSQL beside it, an empty database
//! ```
//! `BENCH_WAITING` sets how many wait. Each figure is the median of 50 claims, the slowest behind it.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hookgate::app::Metrics;
use hookgate::domain::{
    Actor, Endpoint, EndpointId, Event, EventId, InstanceId, Lease, LeaseToken, Org, OrgId,
    SigningSecret, TraceId,
};
use hookgate::runtime::{Clock, Stopwatch};
use hookgate::store::{ClaimCursor, EventBatch, LeaseGrant, Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use support::store_config;

const CLAIMS: usize = 50;
const ROOM: usize = 512;
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Endpoints that work, each with something due.
const ENDPOINTS: usize = 100;

/// A store, and how rows get into it behind its back.
struct Bench {
    name: &'static str,
    store: Store,
    url: String,
    clock: Clock,
}

impl Bench {
    async fn endpoint(&self, org: OrgId, event_types: &str) -> EndpointId {
        let url = "https://example.com/hooks".parse().unwrap();
        let secret = SigningSecret::generate().unwrap();
        let event_types = event_types.parse().unwrap();
        let endpoint =
            Endpoint { event_types, ..Endpoint::new(org, url, secret, self.clock.now()) };
        self.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
        endpoint.id
    }

    /// Stores an event of a type, with a delivery for each endpoint that wants it.
    async fn publish(&self, org: OrgId, event_type: &str, count: usize) {
        let now = self.clock.now();
        let event = |_| {
            Arc::new(Event {
                id: EventId::mint(now),
                org_id: org,
                event_type: event_type.parse().unwrap(),
                payload: vec![b'7'; 100].into(),
                dedup_id: None,
                account_id: None,
                user_id: None,
                occurred_at: None,
                received_at: now,
                trace_id: TraceId::mint(),
                accept_span: None,
            })
        };
        let events: Vec<_> = (0..count).map(event).collect();
        // The store plans what it is given no plan for.
        let endpoints = HashMap::new();
        let batch =
            EventBatch { events: &events, endpoints: &endpoints, deliveries: &[], lease: None };
        self.store.system().persist_events(batch, now).await.unwrap();
    }

    /// Multiplies the only delivery of an endpoint, all due before it, over some minutes.
    async fn multiply(&self, endpoint: EndpointId, count: usize) {
        let id = endpoint.uuid().simple().to_string();
        if self.url.starts_with("postgres") {
            let mut connection = PgConnection::connect(&self.url).await.unwrap();
            let sql = format!(
                "INSERT INTO pending_deliveries
                     (id, org_id, event_id, event_received_at, endpoint_id, payload_bytes, due_at,
                      created_at)
                 SELECT gen_random_uuid(), org_id, event_id, event_received_at, endpoint_id,
                        payload_bytes, due_at - n * interval '100 microseconds', created_at
                 FROM pending_deliveries, generate_series(1, {count}) n WHERE endpoint_id = '{id}'"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        } else {
            let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
            let sql = format!(
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {count})
                 INSERT INTO pending_deliveries
                     (id, org_id, event_id, event_received_at, endpoint_id, payload_bytes, due_at,
                      created_at)
                 SELECT randomblob(16), org_id, event_id, event_received_at, endpoint_id,
                        payload_bytes, due_at - n * 100, created_at
                 FROM pending_deliveries, n WHERE endpoint_id = x'{id}'"
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        }
    }

    /// Claims that leave the dead endpoint out, every other endpoint having something due.
    async fn measure(&self, what: &str, org: OrgId, dead: EndpointId) {
        let mut times = Vec::new();
        let mut claimed = 0;
        for _ in 0..CLAIMS {
            self.publish(org, "live", 1).await;
            let now = self.clock.now();
            let lease = Lease {
                token: LeaseToken::mint(InstanceId::new(1)),
                until: now.plus(Duration::from_hours(1)),
            };
            let mut from = ClaimCursor::default();
            loop {
                let watch = Stopwatch::start();
                let due = self.store.system().due_endpoints(from, now).await.unwrap();
                let others = due.endpoints.iter().filter(|due| due.endpoint != dead);
                let grants: Vec<LeaseGrant> = others
                    .map(|due| LeaseGrant {
                        bytes_max: BYTES_MAX,
                        endpoint: due.endpoint,
                        org: due.org,
                        ordered: due.ordered,
                        deliveries_max: ROOM / ENDPOINTS,
                    })
                    .collect();
                let lease = self.store.system().lease_deliveries(&grants, lease, now);
                claimed += lease.await.unwrap().deliveries.len();
                times.push(watch.elapsed());
                from = due.next;
                if !due.more {
                    break;
                }
            }
        }
        assert_eq!(claimed, CLAIMS * ENDPOINTS, "every other endpoint's deliveries are claimed");
        times.sort_unstable();
        let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
        let name = self.name;
        println!("{name:<10} {what:<34} median {median:>10.1?}  slowest {slowest:>10.1?}");
    }

    async fn run(&self, waiting: usize) {
        self.store.migrate_up().await.unwrap();
        let now = self.clock.now();
        self.store.system().maintain(now).await.unwrap();
        let org = OrgId::mint(now);
        let row = Org::new(org, "bench", now);
        self.store.system().insert_org(&row, &Actor::CLI).await.unwrap();
        let dead = self.endpoint(org, "dead").await;
        for _ in 0..ENDPOINTS {
            self.endpoint(org, "live").await;
        }
        self.publish(org, "dead", 1).await;
        self.measure("nothing waits", org, dead).await;
        self.multiply(dead, waiting).await;
        self.measure(&format!("{waiting} wait for a dead one"), org, dead).await;
    }
}

#[tokio::main]
async fn main() {
    let waiting = std::env::var("BENCH_WAITING").map_or(1_000_000, |count| count.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let config = store_config(directory.path());
    let metrics = || Metrics::new().unwrap().store;
    let path = config.sqlite_path();
    let store: Store = Store::open_sqlite(&path, &config, metrics()).await.unwrap();
    let url = format!("sqlite://{}", path.display());
    Bench { name: "sqlite", store, url, clock: Clock::system() }.run(waiting).await;
    if let Ok(url) = std::env::var("BENCH_DATABASE_URL") {
        let store: Store = Store::connect_postgres(&url, &config, metrics()).await.unwrap();
        Bench { name: "postgres", store, url, clock: Clock::system() }.run(waiting).await;
    }
}
