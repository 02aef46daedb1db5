//! Pauses of endpoints over the API of a server that delivers: they are shown, probed by hand, and reset. Its clock stands
//! still, so no pause ends by itself.

use std::time::Duration;

use hookgate::app::BackgroundWork;
use hookgate::auth::issue_key;
use hookgate::domain::{Actor, EndpointChange, EndpointId, Org, OrgId, Role};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::store::some_endpoint;
use crate::support::answer::{Answer as HttpAnswer, answer, json as json_body};
use crate::support::app::{START, TestApp};
use crate::support::client;
use crate::support::receiver::{Answer, Receiver};
use crate::support::server::Server;
use crate::support::wait::until;

/// A tenant of a server that delivers, with a receiver.
struct Live {
    app: TestApp,
    org: OrgId,
    key: String,
    receiver: Receiver,
}

impl Live {
    async fn start() -> Self {
        let flags = ["--allow-private-endpoints=true", "--delivery-poll-interval=20ms"];
        let (app, _) = TestApp::start(&flags, BackgroundWork::Run).await;
        let org = Org::new(OrgId::mint(START), "acme", START);
        app.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
        let issued = issue_key(Role::Tenant(org.id), "key".to_owned(), START).await.unwrap();
        app.store.system().insert_key(&issued.record, &Actor::CLI).await.unwrap().unwrap();
        let key = issued.key.reveal().to_owned();
        Self { app, org: org.id, key, receiver: Receiver::start().await }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> HttpAnswer {
        let url = format!("http://{}{path}", self.app.address);
        let request = client().request(method, url).header("x-api-key", &self.key);
        match body {
            Some(body) => answer(json_body(request, body.to_string())).await,
            None => answer(request).await,
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None).await.expect(200)
    }

    /// An endpoint at the receiver, with these settings; its path in the API.
    async fn endpoint(&self, settings: Value) -> String {
        let mut body = json!({ "url": self.receiver.url("/old") });
        body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let created = self.ask(Method::POST, "/api/endpoints", Some(body)).await.expect(201);
        self.receiver.trust(&created["secret"].as_str().unwrap().parse().unwrap());
        format!("/api/endpoints/{}", created["id"].as_str().unwrap())
    }

    /// Posts an event; its id.
    async fn post_event(&self) -> Value {
        // So that lists are in the order of the events.
        self.app.parts.clock.advance(Duration::from_millis(1));
        let event = json!({"type": "a", "payload": 1});
        self.ask(Method::POST, "/api/events", Some(event)).await.expect(202)["id"].clone()
    }

    /// The deliveries, newest first.
    async fn deliveries(&self) -> Vec<Value> {
        self.get("/api/deliveries").await["data"].as_array().unwrap().clone()
    }

    /// The path of an event's delivery, which is the newest, once its attempt is recorded.
    async fn attempted(&self, event: &Value) -> String {
        let mut path = String::new();
        until("the attempt is recorded", async || {
            let newest = self.deliveries().await.first().cloned().unwrap_or_default();
            path = format!("/api/deliveries/{}", newest["id"].as_str().unwrap_or_default());
            newest["event_id"] == *event && newest["attempt_count"] == 1
        })
        .await;
        path
    }

    /// Has the receiver ask for an hour's pause, and returns the path of the delivery that it refused.
    async fn pause(&self, endpoint: &str) -> String {
        self.receiver.answer([Answer::status(503).header("retry-after", "3600")]);
        let event = self.post_event().await;
        let delivery = self.attempted(&event).await;
        until("the endpoint is paused", async || !self.paused_until(endpoint).await.is_null())
            .await;
        delivery
    }

    async fn paused_until(&self, endpoint: &str) -> Value {
        self.get(endpoint).await["paused_until"].clone()
    }

    async fn is_paused(&self, endpoint: &str) {
        let until = self.paused_until(endpoint).await;
        assert!(until.as_str().unwrap().starts_with("2026-01-31T13:00:00."), "{until}");
    }

    async fn is_resumed(&self, endpoint: &str) {
        until("the pause is over", async || self.paused_until(endpoint).await.is_null()).await;
    }

    /// Makes a change as another process does: this server is not told.
    async fn change_elsewhere(&self, endpoint: &str, change: &EndpointChange) {
        let store = &self.app.store;
        let id = endpoint_id(endpoint);
        store.update_endpoint(self.org, id, change, &Actor::CLI, START).await.unwrap().unwrap();
    }

    fn paths(&self) -> Vec<String> {
        self.receiver.so_far().into_iter().map(|webhook| webhook.path).collect()
    }
}

fn endpoint_id(path: &str) -> EndpointId {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

fn disabled(reason: Option<&str>) -> EndpointChange {
    let disabled_reason = Some(reason.map(str::to_owned));
    EndpointChange { disabled_reason, ..EndpointChange::default() }
}

#[tokio::test]
async fn pause_is_shown_and_a_retry_or_a_test_probes() {
    for ordered in [false, true] {
        let live = Live::start().await;
        let endpoint = live.endpoint(json!({ "ordered": ordered })).await;
        let delivery = live.pause(&endpoint).await;
        live.is_paused(&endpoint).await;
        assert_eq!(live.get(&delivery).await["held_by"], "paused");
        assert_eq!(live.deliveries().await[0]["held_by"], "paused");

        let retry = format!("{delivery}/retry?wait=30");
        let retried = live.ask(Method::POST, &retry, None).await.expect(200);
        assert_eq!((&retried["status"], &retried["held_by"]), (&json!("delivered"), &json!(null)));
        live.is_resumed(&endpoint).await;

        // A test event probes as well, unless an older delivery goes first.
        let refused = live.pause(&endpoint).await;
        live.ask(Method::POST, &format!("{refused}/cancel"), None).await.expect(200);
        let test = format!("{endpoint}/test?wait=30");
        let tested = live.ask(Method::POST, &test, None).await.expect(200);
        assert_eq!(tested["status"], "delivered");
        live.is_resumed(&endpoint).await;
        assert_eq!(live.paths().len(), 4);
    }
}

#[tokio::test]
async fn new_url_and_enabling_end_a_pause_here_and_by_another_process() {
    let live = Live::start().await;
    let endpoint = live.endpoint(json!({})).await;
    let set = async |body: Value| {
        live.ask(Method::PATCH, &endpoint, Some(body)).await.expect(200);
    };
    live.pause(&endpoint).await;
    set(json!({ "description": "Another change leaves it as it is." })).await;
    live.is_paused(&endpoint).await;
    set(json!({ "url": live.receiver.url("/new") })).await;
    assert_eq!(live.paused_until(&endpoint).await, json!(null));

    live.pause(&endpoint).await;
    set(json!({ "enabled": false })).await;
    set(json!({ "enabled": true })).await;
    assert_eq!(live.paused_until(&endpoint).await, json!(null));

    // Both within one look at what others have changed, or not.
    live.pause(&endpoint).await;
    live.change_elsewhere(&endpoint, &disabled(Some("by hand"))).await;
    live.change_elsewhere(&endpoint, &disabled(None)).await;
    live.is_resumed(&endpoint).await;

    live.post_event().await;
    live.receiver.received(4).await;
    assert_eq!(live.paths(), ["/old", "/new", "/new", "/new"]);
}

#[tokio::test]
async fn nothing_is_sent_to_what_another_process_has_changed() {
    for what in ["disabled", "removed", "moved"] {
        let live = Live::start().await;
        let endpoint = live.endpoint(json!({})).await;
        let other = json!({ "url": live.receiver.url("/other") });
        live.endpoint(other).await;
        // A retry to each is due when the clock moves.
        live.receiver.answer([Answer::status(500), Answer::status(500)]);
        live.post_event().await;
        until("both attempts are recorded", async || {
            let rows = live.deliveries().await;
            rows.len() == 2 && rows.iter().all(|row| row["attempt_count"] == 1)
        })
        .await;
        match what {
            "disabled" => live.change_elsewhere(&endpoint, &disabled(Some("by hand"))).await,
            "removed" => {
                let (store, id) = (&live.app.store, endpoint_id(&endpoint));
                let removed = store.delete_endpoint(live.org, id, &Actor::CLI, START).await;
                assert!(removed.unwrap());
            }
            _ => {
                let url = Some(live.receiver.url("/moved").parse().unwrap());
                let change = EndpointChange { url, ..EndpointChange::default() };
                live.change_elsewhere(&endpoint, &change).await;
            }
        }
        live.post_event().await;
        let more = usize::from(what == "moved");
        live.receiver.received(3 + more).await;
        live.app.parts.clock.advance(Duration::from_secs(10));
        live.receiver.received(4 + 2 * more).await;
        let paths = live.paths();
        let count = |path: &str| paths.iter().filter(|other| *other == path).count();
        let counts = (count("/old"), count("/other"), count("/moved"));
        assert_eq!(counts, (1, 3, 2 * more), "{what}");
    }
}

#[tokio::test]
async fn delivery_that_waits_for_a_slot_is_not_in_flight_and_its_retry_is_accepted() {
    let live = Live::start().await;
    live.endpoint(json!({ "max_concurrency": 1 })).await;
    let first = live.post_event().await;
    live.attempted(&first).await;
    live.receiver.hold();
    live.post_event().await;
    live.receiver.received(2).await;
    let last = live.post_event().await;
    let mut rows = Vec::new();
    until("the last one waits in memory", async || {
        rows = live.deliveries().await;
        rows.len() == 3 && rows[0]["held_by"].is_null() && rows[0]["next_attempt_at"].is_null()
    })
    .await;
    assert_eq!(rows[1]["held_by"], "in_flight");
    let path = |row: &Value| format!("/api/deliveries/{}", row["id"].as_str().unwrap());
    assert_eq!(live.get(&path(&rows[0])).await["held_by"], json!(null));
    let retry = async |row| live.ask(Method::POST, &format!("{}/retry", path(row)), None).await;
    let accepted = retry(&rows[0]).await.expect(202);
    assert_eq!((&accepted["id"], &accepted["status"]), (&rows[0]["id"], &json!("pending")));
    retry(&rows[1]).await.expect_problem(409, "in_progress");
    live.receiver.release();
    live.receiver.received(3).await;
    live.attempted(&last).await;
    assert_eq!(live.paths().len(), 3);
}

#[tokio::test]
async fn pending_deliveries_are_counted_to_ten_thousand() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let endpoint = super::deliveries::endpoint(&server, &tenant).await;
    server.store_event(tenant.org_id, "a", "1").await;
    let path = format!("/api/endpoints/{endpoint}");
    let counted =
        async || server.get(&path, &tenant.key).await.expect(200)["pending_count"].clone();
    assert_eq!(counted().await, 1);
    server
        .execute(
            "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 9999)
             INSERT INTO pending_deliveries (org_id, created_at, id, event_id, event_received_at,
                 endpoint_id, attempts, ordered, payload_bytes, due_at, type_key)
             SELECT org_id, created_at, randomblob(16), event_id, event_received_at, endpoint_id,
                    attempts, ordered, payload_bytes, due_at, type_key
             FROM number CROSS JOIN (SELECT * FROM pending_deliveries LIMIT 1)",
        )
        .await;
    assert_eq!(counted().await, 10_000);
    server.store_event(tenant.org_id, "a", "2").await;
    assert_eq!(counted().await, "10000+");
}

#[tokio::test]
async fn delivery_to_an_endpoint_that_cannot_be_read_says_so_and_the_endpoint_can_be_removed() {
    let live = Live::start().await;
    // Another process makes it: this server has not read it before.
    let endpoint = some_endpoint(live.org, "*");
    live.app.store.insert_endpoint(live.org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    let mut file =
        SqliteConnectOptions::new().filename(live.app.database()).connect().await.unwrap();
    let damage = "UPDATE endpoints SET retry_schedule = 'nonsense'";
    sqlx::raw_sql(damage).execute(&mut file).await.unwrap();
    live.post_event().await;
    until("its delivery waits for the endpoint", async || {
        let newest = live.deliveries().await.first().cloned().unwrap_or_default();
        newest["held_by"] == "unreadable" && newest["attempt_count"] == 0
    })
    .await;
    let path = format!("/api/endpoints/{}", endpoint.id);
    live.ask(Method::DELETE, &path, None).await.expect(204);
    until("its delivery is cancelled", async || {
        live.deliveries().await[0]["status"] == "cancelled"
    })
    .await;
}
