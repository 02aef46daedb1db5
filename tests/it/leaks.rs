//! No secret, key, payload or header field of a client in what the server prints, counts or refuses.
//!
//! The real binary runs at its most talkative through a walk of the API in which everything that
//! must stay secret carries a mark; then everything it said is searched for the marks.

use hookgate::domain::ApiKeyId;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::support::binary::Binary;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::PATIENCE;
use crate::support::{client, forged_key};

const PAYLOAD: &str = "mark-of-a-payload";
const FIELD: &str = "mark-of-a-field";
const CUSTOM: &str = "mark-of-a-custom-header";
const SECRETS_KEY: &str = "bWFyay1vZi1hLXNlY3JldHMta2V5LTMyLWJ5dGVzLiE=";

/// What one client was told and must not have been, and what nobody must be told.
struct Walk {
    http: Client,
    url: String,
    secrets: Vec<String>,
    refusals: Vec<String>,
}

impl Walk {
    /// Asks, with every field a client may think of marked, and returns the status and the body.
    async fn ask(&mut self, method: Method, path: &str, key: &str, body: &str) -> (u16, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url));
        let request = request
            .header("x-api-key", key)
            // Not `Bearer`, which would be a second key.
            .header("authorization", format!("Basic {FIELD}"))
            .header("cookie", format!("session={FIELD}"))
            .header("content-type", "application/json");
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let status = answer.status().as_u16();
        let headers = format!("{:?}", answer.headers());
        let text = answer.text().await.unwrap();
        if status >= 400 {
            self.refusals.push(format!("{headers}\n{text}"));
        }
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn done(&mut self, method: Method, path: &str, key: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, key, &body.to_string()).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    fn keep(&mut self, secret: &Value) {
        let text = secret.as_str().unwrap();
        // Without its kind and, of a key, without its public id.
        let hidden = if text.starts_with("hg_") { &text[36..] } else { &text["whsec_".len()..] };
        self.secrets.push(hidden.to_owned());
    }
}

#[tokio::test]
async fn what_is_secret_is_neither_logged_nor_counted_nor_told() {
    let dir = crate::support::temporary::directory();
    let settings = [
        ("RUST_LOG", "debug,hookgate=trace"),
        ("SECRETS_KEY", SECRETS_KEY),
        ("FAILED_KEYS_PER_MINUTE", "3"),
        ("REQUEST_TIMEOUT", "10s"),
    ];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, operator) = server.first_keys().await;
    let url = server.base_url.clone();
    let (secrets, refusals) = (Vec::new(), Vec::new());
    let mut walk = Walk { http: client(), url, secrets, refusals };
    walk.keep(&json!(key));
    walk.keep(&json!(operator));
    walk.secrets.extend([PAYLOAD, FIELD, CUSTOM, SECRETS_KEY].map(str::to_owned));

    webhooks(&mut walk, &key).await;
    keys(&mut walk, &operator).await;
    refused(&mut walk, &key).await;

    let metrics = walk.http.get(format!("{}/metrics", walk.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let log = server.stop().await.join("\n");
    for said in ["request refused", "hookgate"] {
        assert!(log.contains(said), "the log does not say {said:?}: is it on?");
    }
    assert!(walk.refusals.len() > 15, "{}", walk.refusals.len());
    for secret in &walk.secrets {
        for (what, text) in [("log", &log), ("metrics", &metrics)] {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert!(line.is_none(), "{secret} is in the {what}: {line:?}");
        }
        let told = walk.refusals.iter().find(|refusal| refusal.contains(secret.as_str()));
        assert!(told.is_none(), "{secret} is in a refusal: {told:?}");
    }
}

/// Endpoints that answer, fail and are not there, their secrets shown and rotated.
async fn webhooks(walk: &mut Walk, key: &str) {
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(500).body(PAYLOAD)]);
    let headers = json!({ "x-custom": CUSTOM });
    for url in [receiver.url("/hook"), "http://127.0.0.1:1/".to_owned()] {
        let body = json!({ "url": url, "headers": headers });
        let endpoint = walk.done(Method::POST, "/api/endpoints", key, &body).await;
        walk.keep(&endpoint["secret"]);
        receiver.trust(&endpoint["secret"].as_str().unwrap().parse().unwrap());
        let path = format!("/api/endpoints/{}", endpoint["id"].as_str().unwrap());
        let rotate = format!("{path}/secret/rotate");
        let rotated = walk.done(Method::POST, &rotate, key, &json!({})).await;
        walk.keep(&rotated["secret"]);
        walk.done(Method::GET, &format!("{path}/secret"), key, &Value::Null).await;
    }
    let event = json!({ "type": "a", "payload": PAYLOAD });
    walk.done(Method::POST, "/api/events", key, &event).await;
    walk.done(Method::POST, "/api/events/batch", key, &json!([event])).await;
    walk.done(Method::POST, "/api/events/raw", key, &event).await;
    tokio::time::timeout(PATIENCE, receiver.received(4)).await.unwrap();
    walk.done(Method::GET, "/api/events", key, &Value::Null).await;
}

/// Whatever can be wrong with a request, with marks where a message might repeat it.
async fn refused(walk: &mut Walk, key: &str) {
    let bodies = [
        format!(r#"{{"type":"a","payload":{{"x":"{PAYLOAD}""#),
        format!(r#"{{"type":"{PAYLOAD} !","payload":"{PAYLOAD}"}}"#),
        format!(r#"{{"type":{{"a":"{PAYLOAD}"}},"payload":1}}"#),
        format!(r#"{{"type":"a","payload":1,"timestamp":"{PAYLOAD}"}}"#),
        format!(r#"{{"type":"a","payload":1,"dedup_id":["{PAYLOAD}"]}}"#),
        format!(r#""{PAYLOAD}""#),
        format!(r#"["{PAYLOAD}"]"#),
        format!("{PAYLOAD}\n{PAYLOAD}"),
    ];
    for path in ["/api/events", "/api/events/batch", "/api/endpoints"] {
        for body in &bodies {
            let (status, answer) = walk.ask(Method::POST, path, key, body).await;
            assert!((400..500).contains(&status), "{path} {body}: {status} {answer}");
        }
    }
    let fields = [
        json!({ "url": format!("ftp://{PAYLOAD}/") }),
        json!({ "url": "http://127.0.0.1:1/", "secret": format!("whsec_{PAYLOAD}") }),
        json!({ "url": "http://127.0.0.1:1/", "headers": { "host": CUSTOM } }),
        json!({ "url": "http://127.0.0.1:1/", "headers": { "x": [CUSTOM] } }),
        json!({ "url": "http://127.0.0.1:1/", "headers": { "x": format!("{CUSTOM}\n") } }),
    ];
    for body in fields {
        let (status, answer) =
            walk.ask(Method::POST, "/api/endpoints", key, &body.to_string()).await;
        assert_eq!(status, 422, "{body}: {answer}");
    }
    for path in [format!("/api/events/{PAYLOAD}"), format!("/api/events?cursor={PAYLOAD}")] {
        let (status, _) = walk.ask(Method::GET, &path, key, "").await;
        assert!(matches!(status, 404 | 422), "{status}");
    }
    // Keys that are none, and so many that the address is sent away.
    for seed in 0..6 {
        let wrong = forged_key(ApiKeyId::from_uuid(uuid::Uuid::from_u128(u128::from(seed))), seed);
        walk.keep(&json!(wrong));
        let (status, _) = walk.ask(Method::GET, "/api/org", &wrong, "").await;
        assert!(matches!(status, 401 | 429), "{status}");
    }
    let (status, _) = walk.ask(Method::GET, "/api/org", FIELD, "").await;
    assert_eq!(status, 401);
}

/// Keys made, rotated and revoked.
async fn keys(walk: &mut Walk, operator: &str) {
    let orgs = walk.done(Method::GET, "/api/admin/orgs", operator, &Value::Null).await;
    let org = orgs["data"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/admin/orgs/{org}/keys");
    let made = walk.done(Method::POST, &path, operator, &json!({ "name": "another" })).await;
    walk.keep(&made["key"]);
    let path = format!("/api/admin/keys/{}", made["id"].as_str().unwrap());
    let rotated = walk.done(Method::POST, &format!("{path}/rotate"), operator, &json!({})).await;
    walk.keep(&rotated["key"]);
    walk.done(Method::DELETE, &path, operator, &Value::Null).await;
}
