//! `GET /api/stream` over real sockets: followed, resumed, ended.

use hookgate::domain::{ChangeCursor, ChangeKind};
use reqwest::{Method, Response};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::answer::json;
use crate::support::binary::Binary;
use crate::support::postgres::fresh_database;
use crate::support::server::{Server, Tenant};
use crate::support::wait::{PATIENCE, until};
use crate::support::{client, temporary};

/// A client of a stream, as a browser's `EventSource` reads it.
struct Follower {
    response: Response,
    text: String,
    last_id: String,
}

/// An event of a stream.
#[derive(Debug)]
struct Said {
    event: String,
    data: Value,
}

impl Follower {
    async fn open(server: &Server, path: &str, key: &str, last_id: Option<&str>) -> Self {
        let mut request = server.request(Method::GET, path, key);
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        refresh_followed(server).await;
        Self::of(response)
    }

    /// Follows the events of a server in a process of its own.
    async fn of_events(server: &Binary, key: &str) -> Self {
        let url = format!("{}/api/stream?kind=event", server.base_url);
        Self::of(client().get(url).header("x-api-key", key).send().await.unwrap())
    }

    fn of(response: Response) -> Self {
        Self { response, text: String::new(), last_id: String::new() }
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Said> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (mut event, mut data) = (String::new(), Vec::new());
                for line in block.lines() {
                    match line.split_once(": ").unwrap() {
                        ("event", name) => name.clone_into(&mut event),
                        ("id", id) => id.clone_into(&mut self.last_id),
                        ("data", line) => data.push(line.to_owned()),
                        other => panic!("{other:?}"),
                    }
                }
                self.text = rest.into();
                if !data.is_empty() {
                    let data = serde_json::from_str(&data.join("\n")).unwrap();
                    return Some(Said { event, data });
                }
                continue;
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The next event of a type.
    async fn next_of(&mut self, event_type: &str) -> Value {
        loop {
            let said = self.next().await.unwrap();
            if said.data["type"] == event_type {
                return said.data;
            }
        }
    }
}

/// As every server does once a second: this one, and that of which the test's own store is.
async fn refresh_followed(server: &Server) {
    let (store, now) = (server.app.parts.store.clone(), server.clock.now());
    let refreshing = async move { store.system().refresh_followed(now).await };
    server.app.call(refreshing).await.unwrap();
    server.store.system().refresh_followed(now).await.unwrap();
}

async fn store(server: &Server, tenant: &Tenant, event_type: &str) {
    server.store_event(tenant.org_id, event_type, "{\n\"n\": 1}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_shows_what_is_stored_and_goes_on_behind_the_last_event() {
    let server = Server::start().await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let path = "/api/stream?include=payload";
    let mut follower = Follower::open(&server, path, &tenant.key, None).await;
    store(&server, &tenant, "first").await;
    let first = follower.next().await.unwrap();
    assert_eq!((first.event.as_str(), &first.data["type"]), ("event", &"first".into()));
    assert_eq!(first.data["payload"]["n"], 1, "payloads with line breaks stay whole");
    store(&server, &other, "theirs").await;
    store(&server, &tenant, "second").await;
    follower.next_of("second").await;

    // What comes while nobody is connected is shown afterwards, and nothing again.
    let last_id = follower.last_id.clone();
    drop(follower);
    store(&server, &tenant, "third").await;
    let mut follower = Follower::open(&server, "/api/stream", &tenant.key, Some(&last_id)).await;
    let third = follower.next().await.unwrap();
    assert_eq!(third.data["type"], "third", "{third:?}");
    assert!(third.data.get("payload").is_none());

    // Of the other organisation nothing is shown, and by a filter only what passes it.
    let mut filtered =
        Follower::open(&server, "/api/stream?kind=event&type=x.*", &tenant.key, None).await;
    store(&server, &tenant, "y.b").await;
    store(&server, &tenant, "x.a").await;
    assert_eq!(filtered.next().await.unwrap().data["type"], "x.a");
}

#[tokio::test(flavor = "multi_thread")]
async fn position_that_is_too_old_or_malformed_is_told() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut follower =
        Follower::open(&server, "/api/stream", &tenant.key, Some("0-1-0-1000000000")).await;
    let reset = follower.next().await.unwrap();
    assert_eq!(
        (reset.event.as_str(), &reset.data["reason"]),
        ("reset", &"changes_not_kept".into())
    );
    let request = server.request(Method::GET, "/api/stream", &tenant.key);
    let response = request.header("last-event-id", "zzz").send().await.unwrap();
    assert_eq!(response.status(), 422);
    server
        .get("/api/stream?kind=nothing", &tenant.key)
        .await
        .expect_problem(422, "validation_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_with_its_key_and_with_the_server() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let own = server.get("/api/keys", &tenant.key).await;
    let id = own.expect(200)["data"][0]["id"].as_str().unwrap().to_owned();
    let mut revoked = Follower::open(&server, "/api/stream", &tenant.key, None).await;
    let other = server.tenant("other").await;
    let mut stopped = Follower::open(&server, "/api/stream", &other.key, None).await;
    assert_eq!(server.metric("hookgate_streams_open"), 2);
    server.delete(&format!("/api/keys/{id}"), &tenant.key).await.expect(204);
    assert!(revoked.next().await.is_none());
    server.app.request_stop();
    assert!(stopped.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_shows_what_a_consumer_acknowledges() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    server.get("/api/inbox", &tenant.key).await.expect(200);
    let path = "/api/stream?kind=delivery";
    let mut follower = Follower::open(&server, path, &tenant.key, None).await;
    let event = server.store_event(tenant.org_id, "a", "1").await;
    let received = server.get("/api/inbox", &tenant.key).await;
    assert_eq!(received.expect(200)["data"][0]["id"], event.id.to_string());
    server.post(&format!("/api/ack/{}", event.id), &tenant.key, "").await.expect(200);
    let shown = follower.next().await.unwrap();
    assert_eq!(shown.event, "delivery");
    assert_eq!(shown.data["event_id"], event.id.to_string());
    assert_eq!(shown.data["status"], "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_shows_dead_letters() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut follower = Follower::open(&server, "/api/stream", &tenant.key, None).await;
    let mut dead = Follower::open(&server, "/api/stream?kind=dead_letter", &tenant.key, None).await;
    server.store_event(tenant.org_id, "a", "1").await;
    assert_eq!(follower.next().await.unwrap().event, "event");

    let now = server.clock.now();
    let refused = hookgate::domain::EventId::mint(now);
    let (org, record) = (tenant.org_id, b"record");
    server.store.quarantine_event(org, refused, record, "why", now).await.unwrap();
    for follower in [&mut follower, &mut dead] {
        let letter = follower.next().await.unwrap();
        assert_eq!(letter.event, "dead_letter");
        assert_eq!(letter.data["id"], refused.to_string());
        assert_eq!(letter.data["reason"], "unstorable");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_shows_what_other_servers_did() {
    let url = fresh_database().await;
    let settings = [("DATABASE_URL", url.as_str())];
    let dirs = [temporary::directory(), temporary::directory()];
    let mut one = Binary::start(dirs[0].path(), &settings).await;
    let (key, _) = one.first_keys().await;
    let other = Binary::start(dirs[1].path(), &settings).await;
    let mut follower = Follower::of_events(&one, &key).await;
    // The other server knows within a second that somebody follows; posts go on until one is shown.
    let mut posting = JoinSet::new();
    posting.spawn({
        let (url, key) = (format!("{}/api/events", other.base_url), key.clone());
        async move {
            let mut every = tokio::time::interval(std::time::Duration::from_millis(300));
            loop {
                every.tick().await;
                let event = r#"{"type":"elsewhere","payload":1}"#;
                let posted = json(client().post(&url).header("x-api-key", &key), event).send();
                assert_eq!(posted.await.unwrap().status(), 202);
            }
        }
    });
    let shown = follower.next().await.unwrap();
    posting.shutdown().await;
    assert_eq!((shown.event.as_str(), &shown.data["type"]), ("event", &"elsewhere".into()));
    drop(follower);
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_shows_what_a_new_server_and_a_replay_of_its_journal_store_first() {
    let database = fresh_database().await;
    let settings = [("DATABASE_URL", database.as_str())];
    let dirs = [temporary::directory(), temporary::directory()];
    let mut one = Binary::start(dirs[0].path(), &settings).await;
    let (key, _) = one.first_keys().await;
    let mut follower = Follower::of_events(&one, &key).await;
    let mut shown = async || {
        let shown = tokio::time::timeout(PATIENCE, follower.next()).await;
        shown.expect("it is not shown").unwrap().data
    };

    let other = Binary::start(dirs[1].path(), &settings).await;
    let request = client().post(format!("{}/api/events", other.base_url)).header("x-api-key", &key);
    let posted = json(request, r#"{"type":"elsewhere","payload":1}"#).send().await.unwrap();
    assert_eq!(posted.status(), 202);
    let first = shown().await;
    assert_eq!(first["type"], "elsewhere");
    other.stop().await;

    let mut connection = PgConnection::connect(&database).await.unwrap();
    sqlx::raw_sql("DELETE FROM events").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let replayed = Command::new(env!("CARGO_BIN_EXE_hookgate"))
        .args(["journal", "replay", "--since", "1"])
        .current_dir(dirs[1].path())
        .env_clear()
        .env("DATA_DIR", dirs[1].path())
        .envs(settings)
        .output()
        .await
        .unwrap();
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(shown().await["id"], first["id"]);
    drop(follower);
    one.stop().await;
}

const LONG_ANSWERS: [&str; 3] = ["/api/stream", "/api/events/export", "/api/inbox?wait=30"];

#[tokio::test(flavor = "multi_thread")]
async fn streams_exports_and_waits_are_bounded_by_organisation_and_in_total() {
    let server = Server::start_with(&["--streams-max=3", "--streams-per-org=2"]).await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let first = Follower::open(&server, "/api/stream", &tenant.key, None).await;
    let _second = Follower::open(&server, "/api/stream", &tenant.key, None).await;
    for path in LONG_ANSWERS {
        server.get(path, &tenant.key).await.expect_problem(429, "too_many_streams");
    }
    let _third = Follower::open(&server, "/api/stream", &other.key, None).await;
    for path in LONG_ANSWERS {
        server.get(path, &other.key).await.expect_problem(503, "streams_exhausted");
    }
    for path in ["/api/events", "/api/inbox"] {
        server.get(path, &other.key).await.expect(200);
    }
    drop(first);
    until("one is closed", async || server.metric("hookgate_streams_open") == 2).await;
    Follower::open(&server, "/api/stream", &other.key, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_whose_client_reads_nothing_holds_little_and_is_cut_off() {
    const STEP_BYTES: u64 = 1 << 20;
    let server = Server::start_with(&["--head-timeout=3s", "--request-timeout=3s"]).await;
    let tenant = server.tenant("acme").await;
    let _idle = super::exports::open(&server, "/api/stream?include=payload", &tenant).await;
    let mut reading = Follower::open(&server, "/api/stream", &tenant.key, None).await;
    for _ in 0..60 {
        let payload = format!("\"{}\"", "x".repeat(200_000));
        server.store_event(tenant.org_id, "large", &payload).await;
    }
    until("the stream is ended", async || {
        assert!(server.metric("hookgate_answer_bytes_in_flight") <= 2 * STEP_BYTES);
        server.metric("hookgate_streams_open") == 1
    })
    .await;
    // One that reads goes on, although nothing came for longer than another request may take.
    store(&server, &tenant, "last").await;
    reading.next_of("last").await;
}

/// Twenty steps would be more than all answers together may hold.
#[tokio::test(flavor = "multi_thread")]
async fn streams_that_wait_leave_all_of_the_memory_for_answers_to_others() {
    let server = Server::start_with(&["--answers-in-flight-mib=16"]).await;
    let tenant = server.tenant("acme").await;
    let mut followers = Vec::new();
    for _ in 0..20 {
        followers.push(Follower::open(&server, "/api/stream", &tenant.key, None).await);
    }
    store(&server, &tenant, "first").await;
    for follower in &mut followers {
        follower.next_of("first").await;
    }
    until("nothing is held", async || server.metric("hookgate_answer_bytes_in_flight") == 0).await;
    server.get("/api/inbox", &tenant.key).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_ends_at_the_stop_with_a_position_that_goes_on() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let mut follower = Follower::open(&server, "/api/stream", &tenant.key, None).await;
    store(&server, &tenant, "first").await;
    follower.next_of("first").await;
    server.app.request_stop();
    assert!(follower.next().await.is_none());
    let missed = server.store_event(tenant.org_id, "second", "1").await;
    let position: ChangeCursor = follower.last_id.parse().unwrap();
    let now = server.clock.now();
    let rest = server.store.changes_after(tenant.org_id, position, now).await.unwrap();
    let rest: Vec<_> = rest.iter().map(|(_, change)| (change.kind, change.id)).collect();
    assert_eq!(rest, [(ChangeKind::Event, missed.id.uuid())]);
}
