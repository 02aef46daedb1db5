//! What an organisation's audit log says of those who changed something.

use std::time::Duration;

use hookgate::config::RetentionConfig;
use hookgate::domain::{Actor, Role};
use serde_json::{Value, json};

use crate::support::server::Server;

const DAY: Duration = Duration::from_hours(24);

#[tokio::test]
async fn changes_by_a_key_that_was_deleted_since_are_not_put_down_to_an_operator() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let (own_id, own) = server.key(Role::Tenant(tenant.org_id)).await;
    let (operator_id, operator) = server.key(Role::Operator).await;
    let endpoint = r#"{"url":"https://example.com/"}"#;
    server.post("/api/endpoints", &own, endpoint).await.expect(201);
    let org = format!("/api/admin/orgs/{}", tenant.org_id);
    server.patch(&org, &operator, r#"{"name":"acme and sons"}"#).await.expect(200);
    let now = server.clock.now();
    for key in [own_id, operator_id] {
        assert!(server.store.system().expire_key(key, now, &Actor::CLI, now).await.unwrap());
    }
    server.clock.advance(DAY * 3);
    let config = RetentionConfig { key_retention: Some(DAY), ..RetentionConfig::default() };
    server.store.system().enforce_retention(&config, server.clock.now()).await.unwrap();
    assert!(server.store.system().key(own_id).await.unwrap().is_none());

    let log = server.list("/api/audit", &tenant.key).await;
    let of = |action: &str| {
        let entry = log.iter().find(|entry| entry["action"] == action).unwrap();
        (&entry["actor"], &entry["address"])
    };
    assert_eq!(of("endpoint.create"), (&json!(own_id), &json!("127.0.0.1")), "{log:#?}");
    assert_eq!(of("org.update"), (&json!("operator"), &Value::Null), "{log:#?}");
}
