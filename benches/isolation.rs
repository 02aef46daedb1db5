//! Isolation: how much an endpoint that never answers delays ninety-nine others, measured as the time from
//! storing an event to the arrival of its webhooks, alternately with and without it.
//!
//! ```sh
//! cargo bench --bench isolation
//! ```
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "its figures are what a bench is for")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::post;
use clap::Parser;
use hookgate::app::Metrics;
use hookgate::config::{DeliveryConfig, StoreConfig};
use hookgate::delivery::{DeliveryInputs, DeliveryService};
use hookgate::domain::{
    Actor, Endpoint, Event, EventId, InstanceId, Org, OrgId, SigningSecret, TraceId,
};
use hookgate::runtime::{Clock, Lifecycle, Stopwatch, Wake};
use hookgate::store::{EventBatch, Store, plan_deliveries};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const ENDPOINTS: usize = 100;
/// Rounds of one event to every endpoint, and their interval: 1000 webhooks per second.
const ROUNDS: usize = 30;
const APART: Duration = Duration::from_millis(100);
const PAIRS: usize = 3;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    delivery: DeliveryConfig,
    #[command(flatten)]
    store: StoreConfig,
}

/// When each event was stored, and the latency of its webhooks.
#[derive(Default)]
struct Board {
    stored: Mutex<HashMap<String, Stopwatch>>,
    took: Mutex<Vec<Duration>>,
}

async fn receive(
    Path((hangs, number)): Path<(bool, usize)>,
    State(board): State<Arc<Board>>,
    headers: HeaderMap,
) {
    if number == 0 {
        if hangs {
            std::future::pending::<()>().await;
        }
        return;
    }
    let id = headers["webhook-id"].to_str().unwrap();
    let stored = board.stored.lock().unwrap().get(id).copied();
    board.took.lock().unwrap().push(stored.unwrap().elapsed());
}

/// The median and the 99th percentile, in milliseconds.
async fn measure(hangs: bool) -> (f64, f64) {
    let board = Arc::new(Board::default());
    let app =
        Router::new().route("/{hangs}/{number}", post(receive)).with_state(Arc::clone(&board));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, app).await.unwrap() });

    let settings = Settings::parse_from(["bench", "--allow-private-endpoints=true"]);
    let directory = tempfile::tempdir().unwrap();
    let metrics = Metrics::new().unwrap();
    let path = directory.path().join("hookgate.db");
    let store =
        Store::open_sqlite(&path, &settings.store, Arc::clone(&metrics.store)).await.unwrap();
    store.migrate_up().await.unwrap();
    let clock = Clock::system();
    let now = clock.now();
    let org = OrgId::mint(now);
    let row = Org::new(org, "bench", now);
    store.system().insert_org(&row, &Actor::CLI).await.unwrap();
    for number in 0..ENDPOINTS {
        let url = format!("http://{address}/{hangs}/{number}").parse().unwrap();
        let endpoint = Endpoint::new(org, url, SigningSecret::generate().unwrap(), now);
        store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    }

    let lifecycle = Lifecycle::new();
    let inputs = DeliveryInputs::new(Wake::new(), InstanceId::new(1));
    let (delivery, time) = (metrics.delivery, clock.clone());
    let config = &settings.delivery;
    let service = DeliveryService::new(config, store.clone(), time, delivery, inputs).unwrap();
    let door = service.door();
    service.start(&lifecycle);
    let mut rounds = tokio::time::interval(APART);
    for _ in 0..ROUNDS {
        rounds.tick().await;
        let now = clock.now();
        let event = Arc::new(Event {
            id: EventId::mint(now),
            org_id: org,
            event_type: "user.login".parse().unwrap(),
            payload: vec![b'7'; 100].into(),
            dedup_id: None,
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: now,
            trace_id: TraceId::mint(),
            accept_span: None,
        });
        board.stored.lock().unwrap().insert(event.id.to_string(), Stopwatch::start());
        // As ingest does it.
        let events = [event];
        let endpoints = door.endpoints(&[org]).await.unwrap();
        let mut deliveries = plan_deliveries(&events, &endpoints.by_org);
        let offered = door.offer(&mut deliveries, &endpoints);
        let batch = EventBatch {
            events: &events,
            endpoints: &endpoints.by_org,
            deliveries: &deliveries,
            lease: Some(offered.lease()),
        };
        let mut persisted = store.system().persist_events(batch, now).await.unwrap();
        offered.stored(&deliveries, &mut persisted);
    }
    let expected = ROUNDS * (ENDPOINTS - 1);
    while board.took.lock().unwrap().len() < expected {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    lifecycle.drain(Duration::ZERO).await;
    serving.shutdown().await;
    let mut took = std::mem::take(&mut *board.took.lock().unwrap());
    took.sort_unstable();
    let at = |place: usize| took[place.min(took.len() - 1)].as_secs_f64() * 1e3;
    (at(took.len() / 2), at(took.len() * 99 / 100))
}

#[tokio::main]
async fn main() {
    println!(
        "{:<10}{:>24}{:>24}{:>10}",
        "pair", "all answer p50/p99 ms", "one hangs p50/p99 ms", "p99 x"
    );
    measure(false).await;
    for pair in 1..=PAIRS {
        let (calm, hanging) = (measure(false).await, measure(true).await);
        let show = |(p50, p99): (f64, f64)| format!("{p50:.1} / {p99:.1}");
        let ratio = hanging.1 / calm.1;
        println!("{pair:<10}{:>24}{:>24}{ratio:>10.2}", show(calm), show(hanging));
    }
}
