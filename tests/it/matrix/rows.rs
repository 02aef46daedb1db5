//! The matrix's rows: what each route is sent.

use hookgate::http::Route;
use reqwest::Method;

/// A route, and bodies it takes. `{event}` and the like stand for ids.
pub(super) struct Row {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    bodies: &'static [&'static str],
}

/// One way to ask a route.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    /// With its query.
    pub(super) path: String,
    pub(super) body: Option<String>,
    /// Whether there is nothing wrong with it but the id in its path.
    pub(super) plain: bool,
}

const fn row(method: &'static str, path: &'static str) -> Row {
    with(method, path, &[])
}

const fn with(method: &'static str, path: &'static str, bodies: &'static [&'static str]) -> Row {
    Row { method, path, bodies }
}

/// A row a route.
pub(super) const ROWS: &[Row] = &[
    with(
        "POST",
        "/api/events",
        &[
            r#"{"type":"a","payload":1}"#,
            r#"{"type":"a","payload":1,"dedup_id":"{dedup}"}"#,
            r#"{"type":"a","payload":{"id":"{event}"},"account_id":"{account}","user_id":"{user}"}"#,
        ],
    ),
    with(
        "POST",
        "/api/events/batch",
        &[
            r#"[{"type":"a","payload":1,"dedup_id":"{dedup}"}]"#,
            r#"{"events":[{"type":"a","payload":1}],"org_id":"{org}"}"#,
        ],
    ),
    with("POST", "/api/events/raw", &[r#"{"id":"{event}"}"#]),
    with("POST", "/api/v1/events", &[r#"{"id":"{event}"}"#]),
    row("GET", "/api/events"),
    row("GET", "/api/events/export"),
    row("GET", "/api/events/{id}"),
    with("POST", "/api/events/{id}/replay", &["{}", r#"{"endpoint_id":"{endpoint}"}"#]),
    with("POST", "/api/endpoints", &[r#"{"url":"https://example.com/"}"#]),
    row("GET", "/api/endpoints"),
    row("GET", "/api/endpoints/{id}"),
    with("PATCH", "/api/endpoints/{id}", &[r#"{"enabled":false}"#, r#"{"description":"taken"}"#]),
    row("DELETE", "/api/endpoints/{id}"),
    row("GET", "/api/endpoints/{id}/secret"),
    with("POST", "/api/endpoints/{id}/secret/rotate", &["{}", r#"{"overlap_seconds":0}"#]),
    with("POST", "/api/endpoints/{id}/test", &["{}"]),
    with("POST", "/api/endpoints/{id}/replay", &[r#"{"since":"2026-01-01T00:00:00Z"}"#]),
    row("POST", "/api/endpoints/{id}/cancel-pending"),
    row("GET", "/api/inbox"),
    with("POST", "/api/ack", &[r#"{"ids":["{event}"]}"#]),
    row("POST", "/api/ack/{id}"),
    with("POST", "/api/nack", &[r#"{"ids":["{event}"]}"#]),
    row("GET", "/api/stream"),
    row("GET", "/api/deliveries"),
    row("GET", "/api/endpoints/{id}/attempts"),
    row("GET", "/api/deliveries/export"),
    row("GET", "/api/deliveries/{id}"),
    row("POST", "/api/deliveries/{id}/retry"),
    row("POST", "/api/deliveries/{id}/replay"),
    row("POST", "/api/deliveries/{id}/cancel"),
    row("GET", "/api/dead-letters"),
    with(
        "POST",
        "/api/dead-letters/replay",
        &["{}", r#"{"endpoint_id":"{endpoint}"}"#, r#"{"event_id":"{event}"}"#],
    ),
    with(
        "POST",
        "/api/dead-letters/discard",
        &["{}", r#"{"endpoint_id":"{endpoint}"}"#, r#"{"event_id":"{event}"}"#],
    ),
    row("GET", "/api/dead-letters/export"),
    row("GET", "/api/dead-letters/{id}"),
    row("DELETE", "/api/dead-letters/{id}"),
    row("POST", "/api/dead-letters/{id}/replay"),
    row("GET", "/api/endpoints/{id}/stats"),
    row("GET", "/api/accounts"),
    row("GET", "/api/accounts/sample"),
    row("GET", "/api/accounts/{id}/summary"),
    row("GET", "/api/event-types"),
    row("GET", "/api/analytics/events"),
    row("GET", "/api/replays"),
    row("GET", "/api/replays/{id}"),
    row("POST", "/api/replays/{id}/cancel"),
    row("DELETE", "/api/events/{id}"),
    row("DELETE", "/api/accounts/{id}/data"),
    row("GET", "/api/erasures"),
    row("GET", "/api/erasures/{id}"),
    row("GET", "/api/org"),
    with("PATCH", "/api/org", &[r#"{"own_event_type_rates":{"a":1000}}"#]),
    row("GET", "/api/portal"),
    with("PATCH", "/api/portal", &[r#"{"name":"taken"}"#]),
    with("POST", "/api/portal-links", &[r#"{"account_id":"a"}"#]),
    with("POST", "/api/keys", &[r#"{"name":"taken"}"#]),
    row("GET", "/api/keys"),
    row("GET", "/api/keys/{id}"),
    with("PATCH", "/api/keys/{id}", &[r#"{"name":"taken"}"#]),
    row("DELETE", "/api/keys/{id}"),
    with("POST", "/api/keys/{id}/rotate", &["{}"]),
    row("GET", "/api/audit"),
    with("POST", "/api/admin/orgs", &[r#"{"name":"{org}"}"#]),
    row("GET", "/api/admin/orgs"),
    row("GET", "/api/admin/orgs/{id}"),
    with("PATCH", "/api/admin/orgs/{id}", &[r#"{"name":"taken"}"#]),
    row("DELETE", "/api/admin/orgs/{id}"),
    row("POST", "/api/admin/orgs/{id}/suspend"),
    row("POST", "/api/admin/orgs/{id}/resume"),
    with("POST", "/api/admin/orgs/{id}/keys", &[r#"{"name":"taken"}"#]),
    row("GET", "/api/admin/orgs/{id}/keys"),
    with("POST", "/api/admin/keys", &[r#"{"name":"taken"}"#]),
    row("GET", "/api/admin/keys"),
    row("GET", "/api/admin/keys/{id}"),
    with("PATCH", "/api/admin/keys/{id}", &[r#"{"name":"taken"}"#]),
    row("DELETE", "/api/admin/keys/{id}"),
    with("POST", "/api/admin/keys/{id}/rotate", &["{}", r#"{"grace_seconds":60}"#]),
    row("GET", "/api/admin/audit"),
    row("GET", "/api/admin/servers"),
    row("GET", "/api/admin/quarantine"),
    row("GET", "/api/admin/failing-endpoints"),
    row("GET", "/api/admin/analytics/events"),
    row("GET", "/api/admin/usage"),
    row("GET", "/api/admin/logs"),
    with("PATCH", "/api/admin/logs", &[r#"{"filter":"info"}"#]),
    row("GET", "/openapi.json"),
    row("GET", "/docs"),
    row("GET", "/docs/{file}"),
    row("GET", "/problems/{code}"),
    row("GET", "/api/health"),
    row("GET", "/health/live"),
    row("GET", "/health/ready"),
    row("GET", "/metrics"),
];

/// Ids that may stand in a path.
const IDS: &[&str] = &[
    "{event}",
    "{endpoint}",
    "{delivery}",
    "{pending}",
    "{replay}",
    "{erasure}",
    "{org}",
    "{key}",
    "{account}",
];

/// Queries that name something, on whatever route. Those that a route does not know are refused.
const QUERIES: &[&str] = &[
    "cursor={cursor}",
    "event_id={event}",
    "endpoint_id={endpoint}",
    "delivery_id={delivery}",
    "replay_of={delivery}",
    "org_id={org}",
    "key_id={key}",
    "account_id={account}",
    "user_id={user}",
    "type={type}",
    "inbox={endpoint}",
    "trace_id={trace}",
];

/// Fields that name something, in whatever body.
const FIELDS: &[&str] = &[
    r#"{"event_id":"{event}"}"#,
    r#"{"endpoint_id":"{endpoint}"}"#,
    r#"{"delivery_id":"{delivery}"}"#,
    r#"{"org_id":"{org}"}"#,
    r#"{"key_id":"{key}"}"#,
    r#"{"id":"{event}"}"#,
];

/// Every way to ask a route.
pub(super) fn variants(route: &Route) -> Vec<Variant> {
    let paths: Vec<String> = if route.path.contains("{id}") {
        IDS.iter().map(|id| route.path.replace("{id}", id)).collect()
    } else {
        vec![route.path.replace("{code}", "not_found").replace("{file}", "page.js")]
    };
    let mut variants = Vec::new();
    for path in paths {
        let bodies: Vec<&str> = bodies_of(&route.method, route.path).collect();
        let own = bodies.first().copied();
        let variant = |path: String, body: Option<&str>, plain| Variant {
            path,
            body: body.map(str::to_owned),
            plain,
        };
        if own.is_none() {
            variants.push(variant(path.clone(), None, true));
        }
        let fields = if route.method == Method::GET { &[] } else { FIELDS };
        variants.extend(bodies.iter().map(|body| variant(path.clone(), Some(body), true)));
        variants.extend(fields.iter().map(|body| variant(path.clone(), Some(body), false)));
        let asked = QUERIES.iter().map(|query| variant(format!("{path}?{query}"), own, false));
        variants.extend(asked);
    }
    variants
}

/// The bodies of a route's row.
pub(super) fn bodies_of(method: &Method, path: &str) -> impl Iterator<Item = &'static str> {
    let row = ROWS.iter().find(|row| row.method == method.as_str() && row.path == path);
    row.unwrap_or_else(|| panic!("{method} {path} has no row")).bodies.iter().copied()
}

/// What the id in a path stands for.
pub(super) fn own_id(path: &str) -> &'static str {
    if path == "/api/deliveries/{id}/cancel" {
        return "{pending}";
    }
    match path.trim_start_matches("/api/").trim_start_matches("admin/").split('/').next() {
        Some("events" | "ack") => "{event}",
        Some("endpoints") => "{endpoint}",
        Some("deliveries" | "dead-letters") => "{delivery}",
        Some("accounts") => "{account}",
        Some("replays") => "{replay}",
        Some("erasures") => "{erasure}",
        Some("orgs") => "{org}",
        Some("keys") => "{key}",
        other => panic!("{path}: what is {other:?}?"),
    }
}
