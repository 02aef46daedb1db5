//! Examples of schemas: what a schema says itself, or what a property of its name usually holds.

use serde_json::{Map, Value, json};

/// An example of a schema. References lead into `schemas`.
pub(super) fn example(schema: &Value, schemas: &Map<String, Value>) -> Value {
    build("", schema, schemas)
}

/// An example of the fields that an object requires.
pub(super) fn required_only(schema: &Value, schemas: &Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    let required = schema["required"].clone();
    let is_required =
        |name: &str| required.as_array().is_some_and(|all| all.contains(&name.into()));
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.retain(|name, _| is_required(name));
    }
    build("", &schema, schemas)
}

fn build(name: &str, schema: &Value, schemas: &Map<String, Value>) -> Value {
    if let Some(target) = schema["$ref"].as_str() {
        let target = target.rsplit('/').next().unwrap_or_default();
        return schemas.get(target).map_or(Value::Null, |schema| build(name, schema, schemas));
    }
    if let Some(given) = schema["examples"].get(0).or(schema.get("const")) {
        return given.clone();
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(first) = schema[choice].get(0) {
            return build(name, first, schemas);
        }
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().and_then(Value::as_str),
        kind => kind.as_str(),
    };
    match kind {
        Some("object") => object(schema, schemas),
        Some("array") => json!([build(name, &schema["items"], schemas)]),
        Some("string") => text(name, schema).into(),
        Some("integer") => whole(name, schema),
        Some("number") => json!(0.98),
        Some("boolean") => json!(false),
        _ => json!({"id": "in_1", "total": 12.5}),
    }
}

fn object(schema: &Value, schemas: &Map<String, Value>) -> Value {
    let mut fields = Map::new();
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        fields.insert(name.clone(), build(name, property, schemas));
    }
    let others = &schema["additionalProperties"];
    if fields.is_empty() && others.is_object() {
        fields.insert("invoice.paid".to_owned(), build("", others, schemas));
    }
    Value::Object(fields)
}

fn text(name: &str, schema: &Value) -> &'static str {
    match schema["format"].as_str() {
        Some("uuid") => return "019c1430-6a00-7000-8000-000000000001",
        Some("date-time") => return "2026-01-31T12:00:00Z",
        Some("uri") => return "https://example.com/hooks",
        _ => {}
    }
    match name {
        "name" => "production",
        "status" | "journal" | "disk" | "process" | "store" => "ok",
        "window" => "last_24h",
        "month" => "2026-01",
        "version" => env!("CARGO_PKG_VERSION"),
        "event_type" | "group" => "invoice.paid",
        "endpoint_url" | "url" => "https://example.com/hooks",
        "account_id" | "account_ids" => "acme",
        "user_id" => "u_7",
        "dedup_id" => "in_1-paid",
        "trace_id" => "4bf92f3577b34da6a3ce929d0e0e4736",
        "role" => "tenant",
        "key" => "hg_…",
        "secret" => "whsec_…",
        "public_key" => "whpk_…",
        "method" => "POST",
        "actor" => "cli",
        "address" => "192.0.2.1",
        "action" => "endpoint.create",
        "next_cursor" | "prev_cursor" | "deliveries_next_cursor" => "AAYzXk0…",
        "error" | "last_error" | "detail" => "connection refused",
        "reason" => "exhausted",
        "description" => "Billing",
        "disabled_reason" => "disabled by its owner",
        _ => "…",
    }
}

fn whole(name: &str, schema: &Value) -> Value {
    let usual = match name {
        "status_code" | "last_status_code" => 503,
        "port" => 3000,
        "payload_bytes" | "body_bytes" => 29,
        _ => 1,
    };
    let least = schema["minimum"].as_i64().unwrap_or(usual);
    json!(usual.max(least))
}
