//! `CloudEvents` between the real server and the public SDKs for Python and JavaScript, both ways.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::delivery::servers::Delivering;
use crate::support::receiver::Receiver;

/// Runs the SDK for a language and returns what it prints.
async fn sdk(language: &str, arguments: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cloud_events/run");
    let output = Command::new(script).arg(language).args(arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_sdk_for_python_are_taken_and_sent_on_as_it_reads_them() {
    check("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_sdk_for_javascript_are_taken_and_sent_on_as_it_reads_them() {
    check("javascript").await;
}

async fn check(language: &str) {
    let source = format!("/tests/{language}");
    let server = Delivering::start(&[]).await;
    let (tenant, receiver) = (&server.tenant, Receiver::start().await);
    let body = json!({"url": receiver.url("/"), "format": "cloudevents"});
    let endpoint = tenant.post("/api/endpoints", &body).await;
    assert_eq!(endpoint["format"], "cloudevents");
    receiver.trust(&endpoint["secret"].as_str().unwrap().parse().unwrap());

    let answers = sdk(language, &["post", &server.binary.base_url, tenant.key()]).await;
    let ids = &answers["batch"]["ids"];
    assert_eq!(ids.as_array().map(Vec::len), Some(2), "{answers}");
    assert_eq!(answers["again"]["id"], answers["binary"]["id"], "source and id name the event");
    let plain = json!({"type": "a", "payload": [1], "account_id": "acme", "user_id": "u"});
    let plain = tenant.post("/api/events", &plain).await;

    let webhooks = receiver.received(6).await;
    assert_eq!(receiver.forged(), 0);
    let captured: Vec<Value> = webhooks
        .iter()
        .map(|webhook| {
            json!({
                "headers": {"content-type": webhook.header("content-type")},
                "body": std::str::from_utf8(&webhook.body).unwrap(),
            })
        })
        .collect();
    let file = server.directory.path().join("captured.json");
    std::fs::write(&file, Value::from(captured).to_string()).unwrap();
    let read = sdk(language, &["read", file.to_str().unwrap()]).await;
    let by_id: BTreeMap<&str, &Value> = read
        .as_array()
        .unwrap()
        .iter()
        .map(|event| (event["attributes"]["id"].as_str().unwrap(), event))
        .collect();
    for (id, data, subject, extension) in [
        ("sdk-1", json!({"n": 1.5}), "Grüße & Co", "ä 🪝"),
        ("sdk-2", json!({"n": [2]}), "Gruss", "a b"),
    ] {
        let (attributes, found) = (&by_id[id]["attributes"], &by_id[id]["data"]);
        assert_eq!(found, &data);
        let expected = [
            ("source", source.as_str()),
            ("type", "invoice.paid"),
            ("subject", subject),
            ("comexampleext", extension),
        ];
        for (name, value) in expected {
            assert_eq!(attributes[name], value, "{id} {name}");
        }
    }
    assert_eq!(by_id["sdk-3"]["data"], "<a/>");
    assert_eq!(by_id["sdk-3"]["attributes"]["datacontenttype"], "text/xml");
    assert_eq!(
        (&by_id["sdk-4"]["data"], &by_id["sdk-5"]["data"]),
        (&json!({"n": 4}), &json!({"n": 5}))
    );
    let own = by_id[plain["id"].as_str().unwrap()];
    assert_eq!((&own["data"], &own["attributes"]["type"]), (&json!([1]), &json!("a")));
    assert_eq!(own["attributes"]["subject"], "acme");
    assert!(own["attributes"]["source"].as_str().unwrap().starts_with("urn:hookgate:org:"));

    let path = format!("/api/events/{}", answers["structured"]["id"].as_str().unwrap());
    let stored = tenant.get(&path).await;
    assert_eq!(
        (&stored["type"], &stored["account_id"]),
        (&json!("invoice.paid"), &json!("Grüße & Co"))
    );
    assert_eq!(
        (&stored["dedup_id"], &stored["payload"]["comexampleext"]),
        (&json!(format!("{source} sdk-1")), &json!("ä 🪝"))
    );
    server.binary.stop().await;
}
