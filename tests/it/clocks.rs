//! Clocks that differ and clocks that are set: nothing is delayed, sent twice or put out of order by them.

use std::path::Path;
use std::thread;

use hookgate::app::{App, BackgroundWork, Metrics};
use hookgate::auth::issue_key;
use hookgate::config::StoreConfig;
use hookgate::domain::{
    Actor, DeliveryFilter, DeliveryPolicy, Endpoint, EventFilter, Org, OrgId, PageRequest,
    RetrySchedule, Role, SigningSecret, Timestamp,
};
use hookgate::runtime::{Clock, Shutdown};
use hookgate::store::Store;
use serde_json::json;
use tokio::sync::oneshot;

use crate::support::answer::{answer, json as json_body};
use crate::support::app::config;
use crate::support::client;
use crate::support::postgres::fresh_database;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

/// A server in this process, by a clock of its own.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) clock: Clock,
    shutdown: Shutdown,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    pub(crate) async fn start(dir: &Path, flags: &[&str], clock: Clock) -> Self {
        let base = ["--allow-private-endpoints=true", "--delivery-poll-interval=20ms"];
        let flags: Vec<&str> = base.iter().copied().chain(flags.iter().copied()).collect();
        let config = config(dir, &flags);
        let (started, has_started) = oneshot::channel();
        let of_app = clock.clone();
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let builder = App::builder(&config).clock(of_app).background(BackgroundWork::Run);
                let app = builder.without_bootstrap().build().await.unwrap();
                let _ = started.send((app.address(), app.shutdown()));
                app.run().await.unwrap();
            });
        });
        let (address, shutdown) = has_started.await.unwrap();
        Self { url: format!("http://{address}"), clock, shutdown, thread: Some(thread) }
    }

    pub(crate) async fn post(&self, key: &str, number: usize) {
        let request = client().post(format!("{}/api/events", self.url)).header("x-api-key", key);
        let event = json!({"type": "a", "payload": number}).to_string();
        answer(json_body(request, event)).await.expect(202);
    }

    async fn steps_told(&self) -> u64 {
        let text = answer(client().get(format!("{}/metrics", self.url))).await.text;
        let line = text.lines().find_map(|line| line.strip_prefix("hookgate_clock_steps_total "));
        line.unwrap().parse().unwrap()
    }

    pub(crate) fn stop(mut self) {
        self.shutdown.request();
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A tenant whose events go to one receiver.
pub(crate) struct Tenant {
    pub(crate) store: Store,
    pub(crate) org: OrgId,
    pub(crate) key: String,
}

impl Tenant {
    pub(crate) async fn create(store: Store, receiver: &Receiver, policy: DeliveryPolicy) -> Self {
        let now = Clock::system().now();
        let org = OrgId::mint(now);
        store.system().insert_org(&Org::new(org, "tenant", now), &Actor::CLI).await.unwrap();
        let issued = issue_key(Role::Tenant(org), "test".to_owned(), now).await.unwrap();
        store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
        let secret = SigningSecret::generate().unwrap();
        receiver.trust(&secret);
        let endpoint = Endpoint::new(org, receiver.url("/").parse().unwrap(), secret, now);
        let endpoint = Endpoint { policy, ..endpoint };
        store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
        Self { store, org, key: issued.key.reveal().to_owned() }
    }

    async fn attempts(&self) -> Vec<u32> {
        let page = PageRequest::first(100);
        let filter = DeliveryFilter::default();
        let found = self.store.deliveries(self.org, &filter, page).await.unwrap().data;
        found.iter().map(|delivery| delivery.attempts).collect()
    }

    async fn stamps(&self) -> Vec<Timestamp> {
        let page = PageRequest::first(100);
        let found = self.store.events(self.org, &EventFilter::default(), page).await.unwrap();
        found.data.iter().map(|event| event.received_at).collect()
    }
}

fn numbers(receiver: &Receiver) -> Vec<u64> {
    let number = |json: serde_json::Value| json["data"].as_u64().unwrap();
    receiver.so_far().iter().map(|webhook| number(webhook.json())).collect()
}

pub(crate) async fn postgres_store(url: &str, dir: &Path) -> Store {
    let (config, metrics) = (StoreConfig::in_directory(dir), Metrics::new().unwrap().store);
    let store = Store::connect_postgres(url, &config, metrics).await.unwrap();
    store.migrate_up().await.unwrap();
    store
}

pub(crate) async fn sqlite_store(dir: &Path) -> Store {
    let config = StoreConfig::in_directory(dir);
    let metrics = Metrics::new().unwrap().store;
    let store = Store::open_sqlite(&config.sqlite_path(), &config, metrics).await.unwrap();
    store.migrate_up().await.unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_clocks_are_an_hour_apart_send_nothing_twice_and_retry_on_time() {
    let (one, other) =
        (crate::support::temporary::directory(), crate::support::temporary::directory());
    let url = fresh_database().await;
    let receiver = Receiver::start().await;
    let schedule = RetrySchedule::parse_waits(&["30m"]).unwrap();
    let policy = DeliveryPolicy { retry_schedule: Some(schedule), ..DeliveryPolicy::default() };
    let tenant = Tenant::create(postgres_store(&url, one.path()).await, &receiver, policy).await;
    let flag = format!("--database-url={url}");
    let slow = Server::start(one.path(), &[&flag], Clock::system()).await;
    let fast = Server::start(other.path(), &[&flag], Clock::shifted(HOUR)).await;

    // What one server holds under a lease of five minutes has lapsed by the wall clock of the other.
    receiver.hold();
    for number in 0..10 {
        slow.post(&tenant.key, number).await;
        fast.post(&tenant.key, 10 + number).await;
    }
    receiver.received(20).await;
    // The other server has looked for what is due, and claimed it, meanwhile.
    slow.post(&tenant.key, 20).await;
    fast.post(&tenant.key, 21).await;
    receiver.received(22).await;
    receiver.release();
    until("all are delivered", async || {
        tenant.attempts().await.iter().filter(|attempts| **attempts == 1).count() == 22
    })
    .await;
    // A retry that is due in half an hour is not made now by a server that is an hour ahead.
    receiver.answer([Answer::status(500)]);
    slow.post(&tenant.key, 22).await;
    receiver.received(23).await;
    until("the failure is recorded", async || {
        tenant.attempts().await.iter().filter(|attempts| **attempts == 1).count() == 23
    })
    .await;
    fast.post(&tenant.key, 23).await;
    receiver.received(24).await;
    let mut sent = numbers(&receiver);
    sent.sort_unstable();
    assert_eq!(sent, (0..24).collect::<Vec<u64>>());
    assert!(tenant.attempts().await.iter().all(|attempts| *attempts <= 1));
    slow.stop();
    fast.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_by_a_day_delay_no_retry_and_leave_no_stamp_ahead_and_keep_the_order() {
    let dir = crate::support::temporary::directory();
    let receiver = Receiver::start().await;
    let schedule = RetrySchedule::parse_waits(&["1s", "1s", "1s", "1s"]).unwrap();
    let policy = DeliveryPolicy {
        retry_schedule: Some(schedule),
        ordered: true,
        ..DeliveryPolicy::default()
    };
    let tenant = Tenant::create(sqlite_store(dir.path()).await, &receiver, policy).await;
    let server = Server::start(dir.path(), &[], Clock::shifted(0)).await;

    // Each first attempt fails, and the clock is set before its retry is due.
    for (number, step) in [0, DAY, -DAY, -DAY, DAY].into_iter().enumerate() {
        receiver.answer([Answer::status(500)]);
        server.post(&tenant.key, number).await;
        receiver.received(2 * number + 1).await;
        server.clock.step_by(step);
        receiver.received(2 * number + 2).await;
    }
    // Two steps between two looks may cancel each other out; this one lasts until it is told.
    let told = server.steps_told().await;
    server.clock.step_by(DAY);
    until("the step is told", async || server.steps_told().await > told).await;
    server.clock.step_by(-DAY);
    server.post(&tenant.key, 5).await;
    receiver.received(11).await;
    assert_eq!(numbers(&receiver), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]);
    let newest = Clock::system().now();
    until("the last event is stored", async || tenant.stamps().await.len() == 6).await;
    let is_right = |at: &Timestamp| at.since(newest).max(newest.since(*at)).as_secs() < 3_600;
    let stamps = tenant.stamps().await;
    assert!(stamps.iter().filter(|at| is_right(at)).count() >= 3, "{stamps:?}");

    // A backlog from before a step goes out in order after it, and after a restart by yet another clock.
    receiver.hold();
    server.post(&tenant.key, 6).await;
    receiver.received(12).await;
    server.post(&tenant.key, 7).await;
    server.clock.step_by(-DAY);
    server.post(&tenant.key, 8).await;
    until("all are stored", async || tenant.stamps().await.len() == 9).await;
    receiver.release();
    receiver.received(14).await;
    receiver.answer([Answer::status(500)]);
    server.post(&tenant.key, 9).await;
    receiver.received(15).await;
    // Its retry, due in a second, may have been made by then.
    until("the failure is recorded", async || {
        tenant.attempts().await.iter().filter(|attempts| **attempts >= 1).count() == 10
    })
    .await;
    server.post(&tenant.key, 10).await;
    server.stop();
    let again = Server::start(dir.path(), &[], Clock::shifted(-3 * DAY)).await;
    again.post(&tenant.key, 11).await;
    receiver.received(18).await;
    assert_eq!(numbers(&receiver)[11..], [6, 7, 8, 9, 9, 10, 11]);
    again.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_is_accepted_once_by_its_idempotency_key_whatever_the_clocks_of_servers_say() {
    let dirs = [(); 2].map(|()| crate::support::temporary::directory());
    let url = fresh_database().await;
    let receiver = Receiver::start().await;
    let store = postgres_store(&url, dirs[0].path()).await;
    let tenant = Tenant::create(store, &receiver, DeliveryPolicy::default()).await;
    let flag = format!("--database-url={url}");
    let one = Server::start(dirs[0].path(), &[&flag], Clock::system()).await;
    // Answers are kept for a day, which has passed by this one.
    let ahead = Server::start(dirs[1].path(), &[&flag], Clock::shifted(2 * DAY)).await;
    let batch = async |server: &Server| {
        let request = client().post(format!("{}/api/events/batch", server.url));
        let request = request.header("x-api-key", &tenant.key).header("idempotency-key", "once");
        let body = json!({"events": [{"type": "a", "payload": 1}]}).to_string();
        answer(json_body(request, body)).await.expect(202)
    };
    let first = batch(&one).await;
    assert_eq!(batch(&ahead).await, first);
    assert_eq!(batch(&one).await, first);
    one.stop();
    ahead.stop();
}
