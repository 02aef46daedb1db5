//! What operators look at when something is wrong: servers, quarantines, endpoints that fail.

use hookgate::domain::{Actor, Endpoint, SigningSecret};
use serde_json::{Value, json};

use crate::support::server::{START, Server};

#[tokio::test]
async fn operator_sees_the_server_that_answers() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let servers = server.get("/api/admin/servers", &operator).await.expect(200);
    let [this] = &servers["data"].as_array().unwrap()[..] else { panic!("{servers}") };
    assert_eq!((&this["this"], &this["alive"]), (&json!(true), &json!(true)));
    assert_eq!(this["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(this["started_at"], json!(START.to_string()));
    assert_eq!(this["id"].as_str().unwrap().len(), 16);
    let unknown = server.get("/api/admin/servers?limit=1", &operator).await;
    unknown.expect_faults(&[("limit", "unknown")]);
}

#[tokio::test]
async fn operator_sees_what_the_journal_has_set_aside() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let shown = async |query: &str| {
        server.get(&format!("/api/admin/quarantine{query}"), &operator).await.expect(200)
    };
    let empty = shown("").await;
    assert_eq!(
        (&empty["files"], &empty["bytes"], &empty["data"]),
        (&json!(0), &json!(0), &json!([]))
    );
    let quarantine = server.reader.quarantine();
    assert!(quarantine.bytes("unstorable-1", b"12345").unwrap().is_some());
    assert!(quarantine.bytes("unstorable-2", b"678").unwrap().is_some());
    let all = shown("").await;
    assert_eq!(
        (&all["files"], &all["bytes"], &all["has_more"]),
        (&json!(2), &json!(8), &json!(false))
    );
    let entry = |file: &str, bytes: u64| {
        json!({
            "file": file, "segment": null, "offset": null, "bytes": bytes, "first_seq": null,
            "last_seq": null, "records": null,
        })
    };
    assert_eq!(all["data"], json!([entry("unstorable-1", 5), entry("unstorable-2", 3)]));
    let first = shown("?limit=1").await;
    assert_eq!(
        (&first["data"], &first["has_more"]),
        (&json!([entry("unstorable-1", 5)]), &json!(true))
    );
    let servers = server.get("/api/admin/servers", &operator).await.expect(200);
    assert_eq!(all["server_id"], servers["data"][0]["id"]);
}

#[tokio::test]
async fn operator_sees_endpoints_that_fail_without_credentials() {
    let server = Server::start().await;
    let operator = server.operator().await;
    let mut ids = Vec::new();
    for (name, minutes) in [("acme", Some(5)), ("other", Some(9)), ("well", None)] {
        let tenant = server.tenant(name).await;
        let url = "https://example.com/hooks?token=t0ps3cret".parse().unwrap();
        let secret = SigningSecret::generate().unwrap();
        let since = minutes.map(|minutes| START.minus(std::time::Duration::from_mins(minutes)));
        let endpoint =
            Endpoint { failing_since: since, ..Endpoint::new(tenant.org_id, url, secret, START) };
        let added = server.store.insert_endpoint(tenant.org_id, &endpoint, &Actor::CLI).await;
        added.unwrap().unwrap();
        ids.extend(since.map(|_| json!(endpoint.id)));
    }
    let listed = async |query: &str| {
        let path = format!("/api/admin/failing-endpoints{query}");
        let answer = server.get(&path, &operator).await;
        assert!(
            !answer.text.contains("t0ps3cret") && !answer.text.contains("whsec"),
            "{}",
            answer.text
        );
        answer.expect(200)
    };
    let of = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect()
    };
    let newest = listed("").await;
    assert_eq!(of(&newest), ids);
    assert_eq!(newest["data"][0]["url"], "https://example.com/hooks?…");
    ids.reverse();
    assert_eq!(of(&listed("?order=asc").await), ids);
    let first = listed("?order=asc&limit=1").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = listed(&format!("?order=asc&limit=1&cursor={cursor}")).await;
    assert_eq!(of(&second), ids[1..]);
    let cursor = second["prev_cursor"].as_str().unwrap();
    assert_eq!(of(&listed(&format!("?order=asc&limit=1&cursor={cursor}")).await), ids[..1]);
}
