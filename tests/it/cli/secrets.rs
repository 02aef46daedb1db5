//! Commands that make, rotate and encrypt endpoints' secrets.

use serde_json::{Value, json};

use super::{Place, text};
use crate::support::binary::Binary;

const OLD: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const NEW: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

struct Acme {
    place: Place,
    org: String,
}

impl Acme {
    async fn new() -> Self {
        let place = Place::new();
        let org = place.json(&["org", "create", "--name", "Acme"]).await;
        Self { place, org: text(&org, "id").to_owned() }
    }

    fn add<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let add = ["endpoint", "add", "--org", &self.org, "--url", "https://example.com/"];
        [&add[..], more].concat()
    }

    fn rotate<'a>(&'a self, id: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        [&["endpoint", "rotate-secret", "--org", &self.org, id], more].concat()
    }

    async fn reencrypt(&self, keys: &str) -> super::Said {
        let command = ["endpoint", "reencrypt", "--output", "json"];
        self.place.run_with(&command, &[("SECRETS_KEY", keys)]).await
    }
}

#[tokio::test]
async fn endpoints_are_added_and_rotated_with_either_scheme() {
    let acme = Acme::new().await;
    let added = acme.place.json(&acme.add(&["--signature", "ed25519"])).await;
    assert_eq!((added["signature"].as_str(), added.get("secret")), (Some("ed25519"), None));
    assert!(text(&added, "public_key").starts_with("whpk_"), "{added}");
    let id = text(&added, "id");

    let rotated = acme.place.json(&acme.rotate(id, &["--overlap", "1h"])).await;
    assert_eq!(rotated["signature"], "ed25519", "as before");
    assert_ne!(rotated["public_key"], added["public_key"]);
    let brought = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let rotated = acme.place.json(&acme.rotate(id, &["--secret", brought])).await;
    assert_eq!((text(&rotated, "secret"), &rotated["public_key"]), (brought, &Value::Null));
    let list = acme.place.json(&["endpoint", "list", "--org", &acme.org]).await;
    assert!(list[0].get("secret").is_none(), "{list}");
    acme.place.json(&acme.rotate(id, &[])).await;
    acme.place.run(&acme.rotate(id, &[])).await.failed(1, "three earlier secrets still sign");
    acme.place.json(&acme.rotate(id, &["--overlap", "0s"])).await;

    let fails = async |command: Vec<&str>, with: &str| {
        acme.place.run(&command).await.failed(1, with);
    };
    fails(acme.rotate(id, &["--overlap", "8d"]), "overlap must be at most 7d").await;
    fails(acme.rotate(super::NOBODY, &[]), "there is no endpoint").await;
    fails(acme.add(&["--secret", "whsec_s3cret"]), "secret must be whsec_").await;
    let contradiction = ["--secret", brought, "--signature", "ed25519"];
    fails(acme.add(&contradiction), "secret must be whsec_… with the signature").await;
    acme.place.run(&acme.add(&["--signature", "rsa"])).await.failed(2, "hmac-sha256 or ed25519");
}

#[tokio::test]
async fn malformed_key_is_refused_and_not_repeated() {
    let place = Place::new();
    for keys in ["s3cret", "AAAA,s3cret"] {
        let said = place.run_with(&["serve", "--port", "0"], &[("SECRETS_KEY", keys)]).await;
        said.failed(2, "SECRETS_KEY must be one or more comma-separated keys");
    }
    place.run(&["org", "list", "--secrets-key", "s3cret"]).await.failed(2, "SECRETS_KEY must be");
}

#[tokio::test]
async fn secrets_are_encrypted_and_their_key_is_changed_without_losing_one() {
    let acme = Acme::new().await;
    let place = &acme.place;
    place.json(&acme.add(&[])).await;
    place.run(&["endpoint", "reencrypt"]).await.failed(1, "SECRETS_KEY is not set");
    let encrypted = async |keys: &str, count: u32| {
        let said = acme.reencrypt(keys).await;
        assert_eq!(said.code, 0, "{}", said.err);
        let answer: Value = serde_json::from_str(&said.out).unwrap();
        assert_eq!(answer, json!({ "endpoints": 1, "encrypted": count, "unreadable": [] }));
    };
    encrypted(OLD, 1).await;
    encrypted(OLD, 0).await;

    for keys in [None, Some(NEW)] {
        let settings: Vec<_> = keys.map(|keys| ("SECRETS_KEY", keys)).into_iter().collect();
        let lacks = "which encrypt 1 secrets in the store";
        place.run_with(&["serve", "--port", "0"], &settings).await.failed(1, lacks);
        place.run_with(&acme.add(&[]), &settings).await.failed(1, lacks);
    }
    let said = acme.reencrypt(NEW).await;
    assert_eq!(said.code, 1);
    assert!(said.err.contains("1 endpoints cannot be read"), "{}", said.err);

    let both = format!("{NEW},{OLD}");
    let server = Binary::start(&place.data_dir(), &[("SECRETS_KEY", &both)]).await;
    encrypted(&both, 1).await;
    server.stop().await;
    let server = Binary::start(&place.data_dir(), &[("SECRETS_KEY", NEW)]).await;
    let log = server.stop().await.join("\n");
    assert!(!log.contains(NEW) && !log.contains("whsec_"), "{log}");
}
