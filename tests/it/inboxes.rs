//! Inboxes of the real binary: waiting consumers, and what remains after kills.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json as value};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, raw_sql};

use crate::support::answer::json;
use crate::support::binary::Binary;
use crate::support::postgres;
use crate::support::wait::until;

/// A server and its first organisation's key.
struct World {
    binary: Binary,
    key: String,
    client: Client,
}

impl World {
    async fn start(data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut binary = Binary::start(data_dir, settings).await;
        let (key, _) = binary.first_keys().await;
        let world = Self { binary, key, client: crate::support::client() };
        world.call(Method::GET, "/api/inbox", Value::Null).await;
        world
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.binary.base_url);
        let request = self.client.request(method, url).header("x-api-key", &self.key);
        let request = if body.is_null() { request } else { json(request, body.to_string()) };
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }

    async fn post(&self, numbers: std::ops::Range<usize>) -> Vec<String> {
        let event = |number| value!({"type": "a", "payload": number});
        let events: Vec<Value> = numbers.map(event).collect();
        let answer = self.call(Method::POST, "/api/events/batch", value!({"events": events})).await;
        let ids = answer["ids"].as_array().unwrap();
        ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    async fn receive(&self, query: &str) -> Vec<Value> {
        let answer = self.call(Method::GET, &format!("/api/inbox?{query}"), Value::Null).await;
        answer["data"].as_array().unwrap().clone()
    }

    async fn ack(&self, received: &[Value]) {
        let ids: Vec<&Value> = received.iter().map(|event| &event["id"]).collect();
        if ids.is_empty() {
            return;
        }
        let answer = self.call(Method::POST, "/api/ack", value!({ "ids": ids })).await;
        let statuses = answer["data"].as_array().unwrap();
        assert!(statuses.iter().all(|event| event["status"] == "acked"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_that_waits_is_woken_by_a_post() {
    let dir = crate::support::temporary::directory();
    let settings = [("REQUEST_TIMEOUT", "1s"), ("INBOX_IDLE_MAX", "7d")];
    let world = World::start(dir.path(), &settings).await;
    assert!(world.receive("wait=2").await.is_empty(), "beyond REQUEST_TIMEOUT");
    let (received, posted) = tokio::join!(world.receive("wait=30"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.post(0..1).await
    });
    assert_eq!(received[0]["id"], posted[0]);
    // What is given back wakes, and so does what comes back by itself.
    let body = value!({ "ids": posted });
    let (received, _) = tokio::join!(world.receive("wait=30&visibility_seconds=1"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.call(Method::POST, "/api/nack", body).await
    });
    assert_eq!(received[0]["receive_count"], 2);
    let received = world.receive("wait=30").await;
    assert_eq!(received[0]["receive_count"], 3);
    world.ack(&received).await;
    world.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_is_not_paused_because_the_server_was_stopped() {
    let dir = crate::support::temporary::directory();
    let World { binary, key, client } = World::start(dir.path(), &[]).await;
    binary.stop().await;
    let file = SqliteConnectOptions::new().filename(dir.path().join("hookgate.db"));
    let mut connection = file.connect().await.unwrap();
    let month_ago = "UPDATE endpoints SET last_read_at = last_read_at - 30 * 86400000000";
    let changed = raw_sql(month_ago).execute(&mut connection).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);
    connection.close().await.unwrap();

    let world = World { binary: Binary::start(dir.path(), &[]).await, key, client };
    let posted = world.post(0..1).await;
    until("it is stored", async || {
        let events = world.call(Method::GET, "/api/events", Value::Null).await;
        !events["data"].as_array().unwrap().is_empty()
    })
    .await;
    // A read would resume the inbox, but it would not have what came before.
    let received = world.receive("wait=30").await;
    assert_eq!(received[0]["id"], posted[0]);
    world.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_is_woken_by_what_another_server_stores() {
    let url = postgres::fresh_database().await;
    let (one, other) =
        (crate::support::temporary::directory(), crate::support::temporary::directory());
    let settings = [("DATABASE_URL", url.as_str())];
    let world = World::start(one.path(), &settings).await;
    let second = Binary::start(other.path(), &settings).await;
    let client = crate::support::client();
    let (received, ()) = tokio::join!(world.receive("wait=30"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let body = r#"{"type":"a","payload":1}"#;
        let url = format!("{}/api/events", second.base_url);
        let post = json(client.post(url).header("x-api-key", &world.key), body);
        assert_eq!(post.send().await.unwrap().status(), 202);
    });
    assert_eq!(received.len(), 1);
    world.ack(&received).await;
    second.stop().await;
    world.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_consumers_and_servers_are_killed_on_sqlite() {
    kills(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_consumers_and_servers_are_killed_on_postgresql() {
    let url = postgres::fresh_database().await;
    kills(&[("DATABASE_URL", &url)]).await;
}

/// A consumer that receives and dies, a server that is killed with leases out, and again: every event is received at
/// least once, and none after it was acknowledged.
async fn kills(settings: &[(&str, &str)]) {
    const ROUNDS: usize = 3;
    let dir = crate::support::temporary::directory();
    let mut world = World::start(dir.path(), settings).await;
    let (mut posted, mut acked) = (Vec::new(), HashMap::new());
    for round in 0..ROUNDS {
        posted.extend(world.post(100 * round..100 * (round + 1)).await);
        until("something is received", async || {
            // Received by a consumer that dies before it acknowledges anything.
            !world.receive("limit=20&visibility_seconds=2").await.is_empty()
        })
        .await;
        let received = world.receive("limit=20&visibility_seconds=2&wait=10").await;
        world.ack(&received).await;
        for event in received {
            *acked.entry(event["id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        world.binary.kill().await;
        world.binary = Binary::start(dir.path(), settings).await;
    }
    until("every event is received", async || {
        let received = world.receive("limit=100&visibility_seconds=2&wait=1").await;
        world.ack(&received).await;
        for event in received {
            *acked.entry(event["id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        posted.iter().all(|event| acked.contains_key(event))
    })
    .await;
    assert_eq!(acked.len(), 100 * ROUNDS);
    assert!(acked.values().all(|times| *times == 1), "received again after an acknowledgement");
    assert!(world.receive("wait=3").await.is_empty());
    world.binary.stop().await;
}
