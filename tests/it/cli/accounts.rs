//! What accounts have sent, and usage, beside a running server that folds the counts.

use serde_json::json;

use super::{Place, post, text};
use crate::support::binary::Binary;
use crate::support::wait::until;

#[tokio::test]
async fn accounts_are_summarised_and_usage_is_listed_beside_a_running_server() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, _) = server.first_keys().await;
    for user in ["u1", "u2", "u1"] {
        let event = json!({ "type": "a", "payload": 1, "account_id": "acme", "user_id": user });
        post(&server, &key, "/api/events", event).await;
    }
    let org = place.json(&["org", "list"]).await;
    let org = text(&org[0], "id");
    let mut accounts = json!([]);
    until("the events are folded", async || {
        accounts = place.json(&["account", "list", "--org", org]).await;
        accounts[0]["events"] == 3
    })
    .await;
    assert_eq!(text(&accounts[0], "account_id"), "acme");
    let summary = ["account", "summary", "--org", org, "acme", "--top", "1"];
    let shown = place.json(&summary).await;
    assert_eq!(shown["totals"], json!({ "a": 3 }));
    assert_eq!(shown["top_users"], json!([{ "user_id": "u1", "events": 2 }]));
    let said = place.run(&summary).await;
    assert!(said.out.contains("  a: 3\n  user u1: 2"), "{}", said.out);
    let from = ["--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"];
    let long_ago = place.json(&[&summary[..], &from].concat()).await;
    assert_eq!(long_ago["totals"], json!({}));
    let too_long = ["--from", "2020-01-01T00:00:00Z"];
    let said = place.run(&[&summary[..], &too_long].concat()).await;
    said.failed(1, "from must be at most 31 days before to");
    let never = ["account", "summary", "--org", org, "never"];
    place.run(&never).await.failed(1, "there is no event of this account");
    let usage = place.json(&["usage"]).await;
    assert_eq!((text(&usage[0], "org_id"), &usage[0]["events"]), (org, &json!(3)));
    assert_eq!(place.json(&["usage", "--month", "2020-01"]).await, json!([]));
    place.run(&["usage", "--month", "2020-13"]).await.failed(2, "must be a month such as 2026-01");
    server.stop().await;
}
