//! Webhooks of the real server, verified by the public Standard Webhooks libraries for Rust, Python
//! and JavaScript.

use std::path::Path;

use hookgate::domain::SigningSecret;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::binary::Binary;
use crate::support::client;
use crate::support::receiver::{Received, Receiver};

/// Text that a library which decodes and encodes again, or takes bytes for characters, gets wrong.
const PAYLOAD: &str = r#"{ "n":1.0e2,	"s":"\u0000 ä 🪝 \/",  "deep":[[{}]] }"#;

struct Server {
    binary: Binary,
    key: String,
}

impl Server {
    async fn post(&self, path: &str, body: String) -> Value {
        let request = client().post(format!("{}{path}", self.binary.base_url));
        let request = request.header("x-api-key", &self.key);
        let request = request.header("content-type", "application/json").body(body);
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Adds an endpoint at a path of the receiver, and returns its id.
    async fn endpoint(&self, receiver: &Receiver, path: &str, secret: &SigningSecret) -> String {
        let endpoint = json!({ "url": receiver.url(path), "secret": secret.reveal() });
        let created = self.post("/api/endpoints", endpoint.to_string()).await;
        created["id"].as_str().unwrap().to_owned()
    }

    async fn rotate(&self, id: &str, secret: &SigningSecret) {
        let body = json!({ "secret": secret.reveal() }).to_string();
        self.post(&format!("/api/endpoints/{id}/secret/rotate"), body).await;
    }
}

/// What a receiver verifies with.
fn key(secret: &SigningSecret) -> String {
    secret.public_key().map_or_else(|| secret.reveal(), |key| key.to_string())
}

fn verify_in_rust(secret: &SigningSecret, webhook: &Received) {
    let library = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
    library.verify(&webhook.body, &webhook.headers).unwrap();
    let changed = [&webhook.body[..], b" "].concat();
    assert!(library.verify(&changed, &webhook.headers).is_err());
}

#[tokio::test]
async fn every_signature_is_verified_by_the_public_libraries() {
    let directory = crate::support::temporary::directory();
    let mut binary = Binary::start(directory.path(), &[]).await;
    let (key_text, _) = binary.first_keys().await;
    let server = Server { binary, key: key_text };
    let receiver = Receiver::start().await;
    let parse = |text: &str| text.parse::<SigningSecret>().unwrap();
    let shortest = parse("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    let longest = parse(&format!("whsec_{}==", "Zm9v".repeat(21) + "Zg"));
    let ed25519 = parse("whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=");
    let stranger = SigningSecret::generate().unwrap();
    for secret in [&shortest, &longest, &ed25519] {
        receiver.trust(secret);
    }

    server.endpoint(&receiver, "/shortest", &shortest).await;
    server.endpoint(&receiver, "/longest", &longest).await;
    server.endpoint(&receiver, "/ed25519", &ed25519).await;
    let rotated = server.endpoint(&receiver, "/rotated", &shortest).await;
    server.rotate(&rotated, &longest).await;
    let changed = server.endpoint(&receiver, "/changed-over", &shortest).await;
    server.rotate(&changed, &ed25519).await;
    let verifiers = [
        ("/shortest", vec![&shortest]),
        ("/longest", vec![&longest]),
        ("/ed25519", vec![&ed25519]),
        ("/rotated", vec![&shortest, &longest]),
        ("/changed-over", vec![&shortest, &ed25519]),
    ];
    server.post("/api/events", format!(r#"{{"type":"user.login","payload":{PAYLOAD}}}"#)).await;
    let webhooks = receiver.received(verifiers.len()).await;
    assert_eq!(receiver.forged(), 0);

    let mut cases = Vec::new();
    for (path, secrets) in &verifiers {
        let webhook = webhooks.iter().find(|webhook| webhook.path == *path).unwrap();
        for secret in secrets.iter().filter(|secret| secret.public_key().is_none()) {
            verify_in_rust(secret, webhook);
        }
        let signatures = webhook.header("webhook-signature").split(' ').count();
        assert_eq!(signatures, secrets.len(), "{path}");
        let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
        let headers = names.map(|name| (name, webhook.header(name)));
        cases.push(json!({
            "name": path,
            "keys": secrets.iter().map(|secret| key(secret)).collect::<Vec<_>>(),
            "strangers": [key(&stranger)],
            "headers": headers.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "body": std::str::from_utf8(&webhook.body).unwrap(),
        }));
    }
    let file = directory.path().join("cases.json");
    std::fs::write(&file, Value::from(cases).to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standard_webhooks/run");
    let output = Command::new(script).arg(&file).output().await.unwrap();
    let (said, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{error}");
    assert_eq!(said, "python: 5 webhooks verified\njavascript: 5 webhooks verified\n");
    server.binary.stop().await;
}
