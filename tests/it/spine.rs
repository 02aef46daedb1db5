//! End to end with the real binary: from `POST` to a verified webhook, through failures and restarts.

use std::collections::BTreeMap;
use std::path::Path;

use hookgate::domain::SigningSecret;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres;
use crate::support::receiver::{Answer, Received, Receiver};
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_event_is_stored_once_and_delivered_on_sqlite() {
    let data_dir = crate::support::temporary::directory();
    the_whole_way(data_dir.path(), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_accepted_event_is_stored_once_and_delivered_on_postgresql() {
    let data_dir = crate::support::temporary::directory();
    let url = postgres::fresh_database().await;
    the_whole_way(data_dir.path(), &[("DATABASE_URL", &url)]).await;
}

pub(crate) async fn the_whole_way(data_dir: &Path, settings: &[(&str, &str)]) {
    let good = Receiver::start().await;
    let failing = Receiver::start().await;
    // More answers than attempts: it fails to the end.
    failing.answer(vec![Answer::status(500); 100]);

    let mut server = Binary::start(data_dir, settings).await;
    let (key, _) = server.first_keys().await;
    let tenant = Tenant { client: client(), key };
    good.trust(&tenant.add_endpoint(&server, &good.url("/all"), json!([])).await);
    failing.trust(&tenant.add_endpoint(&server, &failing.url("/"), json!(["github.*"])).await);

    // Each round of payloads meets a server that was stopped in another way.
    let mut posted = BTreeMap::new();
    tenant.post_all(&server, "first", &mut posted).await;
    server.stop().await;
    let server = Binary::start(data_dir, settings).await;
    tenant.post_all(&server, "second", &mut posted).await;
    server.kill().await;
    let server = Binary::start(data_dir, settings).await;
    tenant.post_all(&server, "third", &mut posted).await;
    // Posted once more with the dedup ids of the last round: the same ids, no new events.
    tenant.post_all(&server, "third", &mut posted).await;

    let webhooks = webhooks_of(&good, &posted).await;
    for (id, event) in &posted {
        let webhook = &webhooks[id];
        let expected = format!(r#""data":{}}}"#, event.payload);
        let body = String::from_utf8_lossy(&webhook.body);
        assert!(
            body.ends_with(&expected),
            "{}: {}",
            event.event_type,
            &body[..body.len().min(300)]
        );
    }

    // The failing endpoint had its first attempt and two retries, and then a dead letter.
    let pushes: Vec<&String> =
        posted.iter().filter(|(_, e)| e.event_type == "github.push").map(|(id, _)| id).collect();
    assert_eq!(pushes.len(), 3);
    for id in &pushes {
        let delivery = tenant.dead_delivery(&server, id).await;
        let attempts = delivery["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 3, "{delivery}");
        assert!(attempts.iter().all(|attempt| attempt["status_code"] == 500), "{delivery}");
    }
    let dead_letters: Vec<Value> = tenant.list(&server, "/api/dead-letters").await;
    assert_eq!(dead_letters.len(), pushes.len());

    let stored: Vec<Stored> = tenant.list(&server, "/api/events").await;
    let mut ids: Vec<&str> = stored.iter().map(|event| event.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, posted.keys().map(String::as_str).collect::<Vec<_>>());

    assert_eq!((good.forged(), failing.forged()), (0, 0));

    // Counted once each, whatever the server was stopped by and however often they were posted.
    let counted: Vec<Value> = tenant.list(&server, "/api/event-types").await;
    let events = counted.iter().map(|row| row["events"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(events, posted.len() as u64, "{counted:?}");

    // An outcome is recorded a little after the receiver has the webhook.
    until("no delivery is pending", async || {
        tenant.list::<Value>(&server, "/api/deliveries?status=pending").await.is_empty()
    })
    .await;
    server.stop().await;
}

/// Whatever body was posted, receivers and readers get JSON.
#[tokio::test(flavor = "multi_thread")]
async fn raw_bodies_are_delivered_and_read_back_as_json() {
    let data_dir = crate::support::temporary::directory();
    let receiver = Receiver::start().await;
    let mut server = Binary::start(data_dir.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    let tenant = Tenant { client: client(), key };
    receiver.trust(&tenant.add_endpoint(&server, &receiver.url("/"), json!([])).await);

    let push = include_str!("payloads/github_push.json");
    let bodies: [(&str, &[u8], Value); 3] = [
        ("application/json", push.as_bytes(), serde_json::from_str(push).unwrap()),
        ("application/octet-stream", &[0, 255], {
            json!({ "content_type": "application/octet-stream", "base64": "AP8=" })
        }),
        ("application/json", b"{oops", {
            json!({ "content_type": "application/json", "base64": "e29vcHM=" })
        }),
    ];
    for (count, (media_type, body, payload)) in (1..).zip(bodies) {
        let request = tenant.client.post(format!("{}/api/events/raw", server.base_url));
        let request = request.header("x-api-key", &tenant.key).header("content-type", media_type);
        let request = request.header("x-event-type", "github.push").header("x-user-id", "ada");
        let request = request.header("x-event-timestamp", "2026-01-31T13:00:00+01:00");
        let response = request.body(body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let accepted: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();

        let webhooks = receiver.received(count).await;
        let webhook = &webhooks[count - 1];
        assert_eq!(webhook.header("webhook-id"), accepted["id"]);
        let expected = json!({
            "type": "github.push", "timestamp": "2026-01-31T12:00:00Z", "user_id": "ada", "data": payload,
        });
        assert_eq!(webhook.json(), expected);
        if payload.get("base64").is_none() {
            let data = format!(r#""data":{push}}}"#);
            assert!(webhook.body.ends_with(data.as_bytes()), "not byte for byte");
        }

        let path = format!("/api/events/{}", accepted["id"].as_str().unwrap());
        let stored: Value = tenant.get(&server, &path).await;
        assert_eq!(stored["payload"], payload);
        assert_eq!((&stored["user_id"], &stored["account_id"]), (&json!("ada"), &Value::Null));
        assert_eq!(stored["timestamp"], "2026-01-31T12:00:00Z");
    }
    assert_eq!(receiver.forged(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_endpoint_keeps_its_order_through_refusals_and_kills_on_sqlite() {
    let data_dir = crate::support::temporary::directory();
    order_is_kept(data_dir.path(), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ordered_endpoint_keeps_its_order_through_refusals_and_kills_on_postgresql() {
    let data_dir = crate::support::temporary::directory();
    let url = postgres::fresh_database().await;
    order_is_kept(data_dir.path(), &[("DATABASE_URL", &url)]).await;
}

/// Posts one by one and in batches while the receiver refuses every other webhook or so and the
/// server is killed again and again. Nothing may arrive before all that was accepted earlier has
/// been taken; a webhook that was in flight at a kill may come twice.
async fn order_is_kept(data_dir: &Path, settings: &[(&str, &str)]) {
    let receiver = Receiver::start().await;
    // About half of them, as the bits of an odd number fall.
    let refuses = |place: u64| place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1;
    let taken = |place: usize| !refuses(place as u64);
    receiver.answer((0..4_000).map(|n| Answer::status(if taken(n) { 204 } else { 400 })));
    let many_retries = ["10ms"; 30].join(",");
    let retries = ("RETRY_SCHEDULE", many_retries.as_str());
    let settings: Vec<_> = settings.iter().copied().chain([retries]).collect();
    let mut server = Binary::start(data_dir, &settings).await;
    let (key, _) = server.first_keys().await;
    let tenant = Tenant { client: client(), key };
    let body = json!({ "url": receiver.url("/"), "ordered": true }).to_string();
    let endpoint = tenant.post(&server, "/api/endpoints", body).await;
    receiver.trust(&endpoint["secret"].as_str().unwrap().parse().unwrap());

    let mut accepted: Vec<String> = Vec::new();
    for round in 0..4 {
        for number in 0..8 {
            let event = |n: usize| json!({ "type": "a", "payload": [round, number, n] });
            let one = tenant.post(&server, "/api/events", event(0).to_string()).await;
            accepted.push(one["id"].as_str().unwrap().to_owned());
            let batch = json!([event(1), event(2), event(3)]).to_string();
            let many = tenant.post(&server, "/api/events/batch", batch).await;
            let ids = many["ids"].as_array().unwrap();
            accepted.extend(ids.iter().map(|id| id.as_str().unwrap().to_owned()));
        }
        // Somewhere within the backlog.
        receiver.received(accepted.len() / 2).await;
        server.kill().await;
        server = Binary::start(data_dir, &settings).await;
    }
    let mut seen = 0;
    let all = loop {
        let so_far = receiver.received(seen + 1).await;
        seen = so_far.len();
        let last = accepted.last().unwrap();
        let arrived =
            |(n, webhook): (usize, &Received)| taken(n) && webhook.header("webhook-id") == last;
        if so_far.iter().enumerate().any(arrived) {
            break so_far;
        }
    };
    let mut next = 0;
    for (place, webhook) in all.iter().enumerate() {
        let id = webhook.header("webhook-id");
        let position = accepted.iter().position(|accepted| accepted == id).unwrap();
        // The next one, or the one before it again: its outcome died with the server.
        assert!(position == next || position + 1 == next, "{position} came, {next} is next");
        if position == next && taken(place) {
            next += 1;
        }
    }
    assert_eq!(next, accepted.len());
    server.stop().await;
}

/// Waits for a verified webhook of every posted event. Restarts may bring some twice.
async fn webhooks_of(
    receiver: &Receiver,
    posted: &BTreeMap<String, Posted>,
) -> BTreeMap<String, Received> {
    let mut count = posted.len();
    loop {
        let all = receiver.received(count).await;
        count = all.len() + 1;
        let named =
            all.into_iter().map(|webhook| (webhook.header("webhook-id").to_owned(), webhook));
        let by_id: BTreeMap<String, Received> = named.collect();
        if by_id.len() == posted.len() {
            return by_id;
        }
    }
}

/// What is asked of a stored event. Its payload is left aside: `1e400` is JSON, but no `f64`.
#[derive(Deserialize)]
struct Stored {
    id: String,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    next_cursor: Option<String>,
}

struct Posted {
    event_type: &'static str,
    payload: String,
}

/// What real senders post, and what trips naive ones.
fn payloads() -> Vec<(&'static str, String)> {
    let long = format!(r#""{}""#, "x".repeat(200 * 1024));
    vec![
        ("github.push", include_str!("payloads/github_push.json").trim_end().to_owned()),
        ("invoice.paid", include_str!("payloads/invoice.json").trim_end().to_owned()),
        ("text.unicode", r#"{"text":"Grüße, 世界 🌍 \u00e9 \ud83d\ude00"}"#.to_owned()),
        ("text.nul", r#"{"nul":"a\u0000b"}"#.to_owned()),
        ("text.long", long),
        ("number.huge", "1e400".to_owned()),
        ("number.exact", "[0.1, 0.10, 1E+2, -0, 12345678901234567890123]".to_owned()),
        ("value.null", "null".to_owned()),
        ("space.kept", "{ \"a\" :\t[ 1 ,2 ] }".to_owned()),
    ]
}

struct Tenant {
    client: Client,
    key: String,
}

impl Tenant {
    async fn add_endpoint(&self, server: &Binary, url: &str, event_types: Value) -> SigningSecret {
        let body = json!({ "url": url, "event_types": event_types });
        let endpoint = self.post(server, "/api/endpoints", body.to_string()).await;
        endpoint["secret"].as_str().unwrap().parse().unwrap()
    }

    /// Posts every payload, half of them one by one and half as a batch.
    async fn post_all(&self, server: &Binary, round: &str, posted: &mut BTreeMap<String, Posted>) {
        let payloads = payloads();
        let event = |(event_type, payload): &(&str, String)| {
            format!(
                r#"{{"type":"{event_type}","dedup_id":"{round} {event_type}","payload":{payload}}}"#
            )
        };
        let (single, batch) = payloads.split_at(payloads.len() / 2);
        let mut ids = Vec::new();
        for payload in single {
            let answer = self.post(server, "/api/events", event(payload)).await;
            ids.push(answer["id"].clone());
        }
        let body = format!("[{}]", batch.iter().map(event).collect::<Vec<_>>().join(","));
        let answer = self.post(server, "/api/events/batch", body).await;
        ids.extend(answer["ids"].as_array().unwrap().iter().cloned());
        assert_eq!(ids.len(), payloads.len());
        for (id, (event_type, payload)) in ids.iter().zip(payloads) {
            posted.insert(id.as_str().unwrap().to_owned(), Posted { event_type, payload });
        }
    }

    async fn post(&self, server: &Binary, path: &str, body: String) -> Value {
        let request = self
            .client
            .post(format!("{}{path}", server.base_url))
            .header("x-api-key", &self.key)
            .header("content-type", "application/json")
            .body(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn get<T: DeserializeOwned>(&self, server: &Binary, path: &str) -> T {
        let url = format!("{}{path}", server.base_url);
        let request = self.client.get(url).header("x-api-key", &self.key);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        serde_json::from_str(&response.text().await.unwrap()).unwrap()
    }

    /// Every row of a list, page by page.
    async fn list<T: DeserializeOwned>(&self, server: &Binary, path: &str) -> Vec<T> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Page<T> = self.get(server, &format!("{path}{mark}limit=7{cursor}")).await;
            rows.extend(page.data);
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }

    /// Waits until a delivery of the event is dead, and returns it with its attempts.
    async fn dead_delivery(&self, server: &Binary, event: &str) -> Value {
        let path = format!("/api/deliveries?status=dead&event_id={event}");
        let mut dead = Vec::new();
        until("the delivery is dead", async || {
            dead = self.list::<Value>(server, &path).await;
            dead.len() == 1
        })
        .await;
        let id = dead[0]["id"].as_str().unwrap();
        self.get(server, &format!("/api/deliveries/{id}")).await
    }
}
