//! Scopes, a tenant's own keys, suspension, deletion, quotas and the audit log, over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::server::{Server, Tenant};

const EVENT: &str = r#"{"type":"a.b","payload":{"text":"0123456789"}}"#;

/// A key of the tenant's with these scopes.
async fn key(server: &Server, tenant: &Tenant, scopes: &str) -> Value {
    let body = format!(r#"{{"name":"made","scopes":{scopes}}}"#);
    server.post("/api/keys", &tenant.key, body).await.expect(201)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Changes the organisation as an operator.
async fn limit(server: &Server, tenant: &Tenant, body: &str) -> Value {
    let operator = server.operator().await;
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    server.patch(&path, &operator, body.to_owned()).await.expect(200)
}

#[tokio::test]
async fn key_opens_what_its_scopes_name_and_nothing_else() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let routes = [
        ("events:write", "POST", "/api/events", 202),
        ("events:write", "POST", "/api/events/raw", 202),
        ("events:read", "GET", "/api/events", 200),
        ("events:read", "GET", "/api/deliveries", 200),
        ("events:read", "GET", "/api/dead-letters", 200),
        ("events:read", "GET", "/api/replays", 200),
        ("endpoints:read", "GET", "/api/endpoints", 200),
        ("keys:read", "GET", "/api/keys", 200),
        ("keys:read", "GET", "/api/audit", 200),
    ];
    for scope in [
        "events:write",
        "events:read",
        "endpoints:read",
        "endpoints:manage",
        "keys:read",
        "keys:manage",
    ] {
        let made = key(&server, &tenant, &format!(r#"["{scope}"]"#)).await;
        assert_eq!(made["scopes"], json!([scope]));
        let made = text(&made["key"]);
        for (needed, method, path, status) in routes {
            let answer = match method {
                "POST" => server.post(path, made, EVENT).await,
                _ => server.get(path, made).await,
            };
            let is_included =
                scope.ends_with(":manage") && needed == scope.replace("manage", "read");
            if needed == scope || is_included {
                answer.expect(status);
            } else {
                let problem = answer.expect_problem(403, "scope_required");
                assert!(text(&problem["detail"]).contains(needed), "{problem}");
            }
        }
        let own = server.get("/api/org", made).await.expect(200);
        assert_eq!(own["key"]["scopes"], json!([scope]));
    }
    let admin = server.operator().await;
    let made = server
        .post("/api/admin/keys", &admin, r#"{"name":"reader","scopes":["operator:read"]}"#)
        .await
        .expect(201);
    let reader = text(&made["key"]);
    server.get("/api/admin/orgs", reader).await.expect(200);
    server
        .post("/api/admin/orgs", reader, r#"{"name":"x"}"#)
        .await
        .expect_problem(403, "scope_required");
}

#[tokio::test]
async fn tenant_makes_reads_rotates_and_revokes_its_own_keys() {
    let server = Server::start().await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let made = key(&server, &tenant, r#"["events:read"]"#).await;
    let path = format!("/api/keys/{}", text(&made["id"]));
    server.get("/api/events", text(&made["key"])).await.expect(200);
    let mut record = made.clone();
    record.as_object_mut().unwrap().remove("key");
    assert_eq!(server.get(&path, &tenant.key).await.expect(200), record);
    assert_eq!(server.list("/api/keys", &tenant.key).await.len(), 2);

    let rotate = format!("{path}/rotate");
    for (method, route) in [("GET", &path), ("DELETE", &path), ("POST", &rotate)] {
        let method = method.parse().unwrap();
        let request = server.request(method, route, &other.key);
        let answer = crate::support::server::answer(request).await;
        answer.expect_problem(404, "not_found");
    }
    let new = server.post(&rotate, &tenant.key, r#"{"grace_seconds":60}"#).await.expect(201);
    assert_eq!((&new["scopes"], &new["name"]), (&made["scopes"], &made["name"]));
    for good in [&made["key"], &new["key"]] {
        server.get("/api/events", text(good)).await.expect(200);
    }
    server.clock.advance(Duration::from_mins(1));
    server.get("/api/events", text(&made["key"])).await.expect_problem(401, "unauthorized");
    let path = format!("/api/keys/{}", text(&new["id"]));
    assert_eq!(server.delete(&path, &tenant.key).await.status, 204);
    server.get("/api/events", text(&new["key"])).await.expect_problem(401, "unauthorized");
    let revoked = server.get(&path, &tenant.key).await.expect(200);
    assert_eq!(revoked["revoked_at"], "2026-01-31T12:01:00Z");
}

#[tokio::test]
async fn key_gives_away_no_scope_that_it_lacks() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let manager = key(&server, &tenant, r#"["keys:manage","events:read"]"#).await;
    let manager = text(&manager["key"]);
    let body = r#"{"name":"x","scopes":["events:read","events:write","operator:write",7]}"#;
    server.post("/api/keys", manager, body).await.expect_faults(&[
        ("scopes[1]", "scope"),
        ("scopes[2]", "scope"),
        ("scopes[3]", "scope"),
    ]);
    let made = server.post("/api/keys", manager, r#"{"name":"x"}"#).await.expect(201);
    assert_eq!(made["scopes"], json!(["events:read", "keys:manage"]));
    let path = format!("/api/keys/{}", tenant.key_id);
    let answer = server.post(&format!("{path}/rotate"), manager, "{}").await;
    answer.expect_problem(403, "scope_required");
    assert_eq!(server.delete(&path, manager).await.status, 204);
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
    for (body, fault) in [
        (r#"{"name":"x","scopes":[]}"#, ("scopes", "type")),
        (r#"{"name":"x","expires_at":"2026-01-31T12:00:00Z"}"#, ("expires_at", "range")),
        (r#"{"name":"x","expires_at":"soon"}"#, ("expires_at", "format")),
    ] {
        server.post("/api/keys", manager, body).await.expect_faults(&[fault]);
    }
    let most = hookgate::domain::Scope::ALL.len();
    let many = json!({ "name": "x", "scopes": vec!["events:read"; most + 1] }).to_string();
    let problem =
        server.post("/api/keys", manager, many).await.expect_faults(&[("scopes", "type")]);
    let rule = format!("must be an array of 1 to {most} scopes");
    assert_eq!(problem["errors"][0]["message"], json!(rule));
}

#[tokio::test]
async fn key_expires_at_its_time() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let body = r#"{"name":"x","expires_at":"2026-01-31T12:05:00Z"}"#;
    let made = server.post("/api/keys", &tenant.key, body).await.expect(201);
    server.get("/api/org", text(&made["key"])).await.expect(200);
    server.clock.advance(Duration::from_mins(5));
    server.get("/api/org", text(&made["key"])).await.expect_problem(401, "unauthorized");
}

#[tokio::test]
async fn suspended_organisation_is_refused_at_once_and_comes_back_whole() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    let suspended = server.post(&format!("{path}/suspend"), &operator, "").await.expect(200);
    assert_eq!(suspended["state"], "suspended");
    server
        .post("/api/events", &tenant.key, EVENT)
        .await
        .expect_problem(403, "organisation_suspended");
    for route in ["/api/org", "/api/events", "/api/endpoints", "/api/keys", "/api/audit"] {
        server.get(route, &tenant.key).await.expect_problem(403, "organisation_suspended");
    }
    let resumed = server.post(&format!("{path}/resume"), &operator, "").await.expect(200);
    assert_eq!((&resumed["state"], &resumed["suspended_at"]), (&json!("active"), &Value::Null));
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
}

#[tokio::test]
async fn deleted_organisation_is_gone_from_the_answer_on() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    server.get("/api/org", &tenant.key).await.expect(200);
    let path = format!("/api/admin/orgs/{}", tenant.org_id);
    let deleted = server.delete(&path, &operator).await.expect(202);
    assert_eq!((&deleted["state"], &deleted["deletion"]["rows"]), (&json!("deleting"), &json!(0)));
    server.get("/api/org", &tenant.key).await.expect_problem(401, "unauthorized");
    server.post("/api/events", &tenant.key, EVENT).await.expect_problem(401, "unauthorized");
    server.delete(&path, &operator).await.expect_problem(404, "not_found");
    server.patch(&path, &operator, "{}").await.expect_problem(404, "not_found");
    let keys = format!("{path}/keys");
    server.post(&keys, &operator, r#"{"name":"x"}"#).await.expect_problem(404, "not_found");
    while server.store.system().delete_step(server.clock.now()).await.unwrap().is_some() {}
    let shown = server.get(&path, &operator).await.expect(200);
    assert_eq!((&shown["state"], &shown["name"]), (&json!("deleted"), &json!("")));
    assert!(shown["deletion"]["rows"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn months_events_run_out_and_come_back_with_the_next_month() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    limit(&server, &tenant, r#"{"events_per_month":3}"#).await;
    let two = format!("[{EVENT},{EVENT}]");
    server.post("/api/events/batch", &tenant.key, two.clone()).await.expect(202);
    let answer = server.post("/api/events/batch", &tenant.key, two).await;
    let problem = answer.expect_problem(429, "batch_over_month");
    let told = "the batch has 2 events; 1 of 3 are left this month (UTC); send smaller batches";
    assert_eq!(problem["detail"], told);
    // Twelve hours of January are left.
    assert_eq!(answer.header("retry-after"), "43200");
    let four = format!("[{EVENT},{EVENT},{EVENT},{EVENT}]");
    let answer = server.post("/api/events/batch", &tenant.key, four.clone()).await;
    let problem = answer.expect_problem(429, "batch_over_month");
    let told = "the batch has 4 events; 1 of 3 are left this month (UTC); send smaller batches";
    assert_eq!(problem["detail"], told);
    assert!(!answer.headers.contains_key("retry-after"), "it would not pass then either");
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    // Nothing is left, so that a batch is refused before it is known how long it is.
    let answer = server.post("/api/events/batch", &tenant.key, four).await;
    answer.expect_problem(429, "month_used_up");
    let three = format!("[{EVENT},{EVENT},{EVENT}]");
    for (path, body) in [("/api/events", EVENT), ("/api/events/batch", &three)] {
        let answer = server.post(path, &tenant.key, body.to_owned()).await;
        answer.expect_problem(429, "month_used_up");
        assert_eq!(answer.header("retry-after"), "43200");
    }
    let org = server.get("/api/org", &tenant.key).await.expect(200);
    let expected = json!({ "limit": 3, "used": 3, "left": 0 });
    assert_eq!(org["quotas"]["events_this_month"], expected);
    assert_eq!(org["quotas"]["month_ends_at"], "2026-02-01T00:00:00Z");

    // Written down, and known to an instance that starts later, too.
    server.flush_usage().await;
    let month = hookgate::domain::Month::of(server.clock.now());
    assert_eq!(server.store.month_events(tenant.org_id, month).await.unwrap(), 3);
    server.clock.advance(Duration::from_hours(12));
    server.flush_usage().await;
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
}

#[tokio::test]
async fn limits_change_while_running_and_hold_from_the_next_request() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    limit(&server, &tenant, r#"{"rate_limit_per_minute":60,"burst":2}"#).await;
    let answer = server.post("/api/events", &tenant.key, EVENT).await;
    answer.expect(202);
    assert!(answer.header("ratelimit").starts_with("\"default\";r=1;"), "{answer:?}");
    let org = server.get("/api/org", &tenant.key).await.expect(200);
    assert_eq!(
        (&org["limits"]["burst"], &org["limits"]["events_left_now"]),
        (&json!(2), &json!(1))
    );
    let three = format!("[{EVENT},{EVENT},{EVENT}]");
    let answer = server.post("/api/events/batch", &tenant.key, three).await;
    answer.expect_problem(429, "batch_over_rate_limit");

    limit(
        &server,
        &tenant,
        r#"{"rate_limit_per_minute":null,"burst":null,"payload_bytes_max":10}"#,
    )
    .await;
    server.post("/api/events", &tenant.key, EVENT).await.expect_problem(413, "payload_too_large");
    limit(&server, &tenant, r#"{"payload_bytes_max":null,"bytes_per_minute":80}"#).await;
    let bytes_left = async || {
        let org = server.get("/api/org", &tenant.key).await.expect(200);
        org["limits"]["bytes_left_now"].as_u64()
    };
    assert_eq!(bytes_left().await, Some(80));
    server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    // What is sent flows back, a byte in 750 ms.
    let most = 80 - EVENT.len() as u64 + 20;
    assert!(bytes_left().await.is_some_and(|left| left < most));
    let answer = server.post("/api/events", &tenant.key, EVENT).await;
    let problem = answer.expect_problem(429, "byte_rate_limited");
    let detail = "the limit of 80 bytes per minute is reached; try again in ";
    assert!(text(&problem["detail"]).starts_with(detail), "{problem}");
    assert_ne!(answer.header("retry-after"), "0");
    let policy = "\"bytes\";q=80;w=60;qu=\"content-bytes\"";
    assert_eq!(answer.header("ratelimit-policy"), policy);
    assert!(answer.header("ratelimit").starts_with("\"bytes\";r="), "{answer:?}");
    let large = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(100));
    server.post("/api/events", &tenant.key, large).await.expect_problem(413, "payload_too_large");
}

#[tokio::test]
async fn quotas_of_keys_and_endpoints_are_told_and_held() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    limit(&server, &tenant, r#"{"keys_max":1,"endpoints_max":0}"#).await;
    let answer = server.post("/api/keys", &tenant.key, r#"{"name":"x"}"#).await;
    let problem = answer.expect_problem(409, "quota_reached");
    assert_eq!(problem["detail"], "the organisation may have at most 1 keys (keys_max)");
    let endpoint = r#"{"url":"https://example.com/"}"#;
    let answer = server.post("/api/endpoints", &tenant.key, endpoint).await;
    answer.expect_problem(409, "quota_reached");
    let quotas = server.get("/api/org", &tenant.key).await.expect(200)["quotas"].clone();
    assert_eq!(quotas["keys"], json!({ "limit": 1, "used": 1, "left": 0 }));
    assert_eq!(quotas["endpoints"], json!({ "limit": 0, "used": 0, "left": 0 }));
}

#[tokio::test]
async fn key_that_there_is_no_room_for_costs_no_hash() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    limit(&server, &tenant, r#"{"keys_max":1}"#).await;
    server.get("/api/org", &tenant.key).await.expect(200);
    server.get("/api/admin/orgs", &operator).await.expect(200);
    let hashes = server.metrics.auth.auth_hashes_total.get();
    let of_org = format!("/api/admin/orgs/{}/keys", tenant.org_id);
    let body = r#"{"name":"x"}"#;
    let asked = (0..24).map(|_| server.post("/api/keys", &tenant.key, body));
    for answer in futures_util::future::join_all(asked).await {
        answer.expect_problem(409, "quota_reached");
    }
    server.post(&of_org, &operator, body).await.expect_problem(409, "quota_reached");
    assert_eq!(server.metrics.auth.auth_hashes_total.get(), hashes);
    limit(&server, &tenant, r#"{"keys_max":2}"#).await;
    let before = server.metrics.auth.auth_hashes_total.get();
    server.post("/api/keys", &tenant.key, body).await.expect(201);
    assert_eq!(
        server.metrics.auth.auth_hashes_total.get(),
        before + 1,
        "one that is made is counted"
    );
}

#[tokio::test]
async fn rotating_with_grace_gives_no_more_keys_than_twice_the_quota() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    limit(&server, &tenant, r#"{"keys_max":2}"#).await;
    let mut id = text(&key(&server, &tenant, r#"["events:read"]"#).await["id"]).to_owned();
    let rotate = async |id: &str, body: &'static str| {
        server.post(&format!("/api/keys/{id}/rotate"), &tenant.key, body).await
    };
    for _ in 0..2 {
        let new = rotate(&id, r#"{"grace_seconds":60}"#).await.expect(201);
        text(&new["id"]).clone_into(&mut id);
    }
    let hashes = server.metrics.auth.auth_hashes_total.get();
    let problem = rotate(&id, r#"{"grace_seconds":60}"#).await.expect_problem(409, "quota_reached");
    assert!(
        text(&problem["detail"]).contains("2 rotated keys are in their grace period"),
        "{problem}"
    );
    assert_eq!(server.metrics.auth.auth_hashes_total.get(), hashes);
    let new = rotate(&id, "{}").await.expect(201);
    server.clock.advance(Duration::from_mins(1));
    rotate(text(&new["id"]), r#"{"grace_seconds":60}"#).await.expect(201);
}

#[tokio::test]
async fn last_use_of_a_key_is_known_to_the_minute_also_on_one_connection() {
    let server = Server::start().await;
    let tenant = server.tenant("acme").await;
    let path = format!("/api/keys/{}", tenant.key_id);
    let last_used =
        async || server.get(&path, &tenant.key).await.expect(200)["last_used_at"].clone();
    assert_eq!(last_used().await, Value::Null);
    server.flush_usage().await;
    assert_eq!(last_used().await, "2026-01-31T12:00:00Z");
    server.flush_usage().await;
    server.clock.advance(Duration::from_secs(150));
    // The key that this connection presented last, which is not looked up.
    for _ in 0..2 {
        server.post("/api/events", &tenant.key, EVENT).await.expect(202);
    }
    server.flush_usage().await;
    assert_eq!(last_used().await, "2026-01-31T12:02:00Z");
}

#[tokio::test]
async fn no_op_changes_are_answered_and_not_audited() {
    let server = Server::start().await;
    let (operator, tenant) = (server.operator().await, server.tenant("acme").await);
    let body = r#"{"url":"https://example.com/"}"#;
    let endpoint = server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    let made = key(&server, &tenant, r#"["events:read"]"#).await;
    let made = format!("/api/keys/{}", text(&made["id"]));
    assert_eq!(server.delete(&made, &tenant.key).await.status, 204);
    let log = server.list("/api/audit", &tenant.key).await;
    let org = format!("/api/admin/orgs/{}", tenant.org_id);
    let endpoint = format!("/api/endpoints/{}", text(&endpoint["id"]));
    for body in ["{}", r#"{"name":"acme"}"#] {
        server.patch(&org, &operator, body).await.expect(200);
    }
    server.patch(&endpoint, &tenant.key, "{}").await.expect(200);
    assert_eq!(server.delete(&made, &tenant.key).await.status, 204);
    assert_eq!(server.list("/api/audit", &tenant.key).await, log);
}

#[tokio::test]
async fn tenants_read_their_own_audit_log_and_operators_all() {
    let server = Server::start().await;
    let (tenant, other) = (server.tenant("acme").await, server.tenant("other").await);
    let made = key(&server, &tenant, r#"["events:read"]"#).await;
    let body = r#"{"url":"https://example.com/s3cret"}"#;
    let endpoint = server.post("/api/endpoints", &tenant.key, body).await.expect(201);
    let secret = format!("/api/endpoints/{}/secret", text(&endpoint["id"]));
    server.get(&secret, &tenant.key).await.expect(200);
    let log = server.list("/api/audit", &tenant.key).await;
    let by_key: Vec<_> =
        log.iter().filter(|entry| entry["actor"] == json!(tenant.key_id)).collect();
    assert_eq!(by_key.len(), 3, "{log:#?}");
    assert!(by_key.iter().all(|entry| entry["address"] == "127.0.0.1"));
    assert!(log.iter().any(|entry| entry["object"] == made["id"]));
    let told = serde_json::to_string(&log).unwrap();
    assert!(
        !told.contains("s3cret") && !told.contains("whsec_") && !told.contains("hg_"),
        "{told}"
    );
    let others = server.list("/api/audit", &other.key).await;
    assert!(others.iter().all(|entry| entry["actor"] == "operator"), "{others:#?}");

    let operator = server.operator().await;
    let all = server.list("/api/admin/audit", &operator).await;
    assert!(all.len() > log.len());
    let filtered = format!("/api/admin/audit?org_id={}", tenant.org_id);
    let filtered = server.list(&filtered, &operator).await;
    let ids = |log: &[Value]| log.iter().map(|entry| entry["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&filtered[..log.len()]), ids(&log));
    assert_eq!(filtered.len(), log.len() + 1, "tenants do not see that they were created");
    assert_eq!(filtered[log.len()]["action"], "org.create");
    let bad = server.get("/api/admin/audit?org_id=7", &operator).await;
    bad.expect_faults(&[("org_id", "format")]);
}
