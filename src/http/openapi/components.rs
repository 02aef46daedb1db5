//! What operations share: security schemes, header fields, parameters, and an example of every error.

use serde_json::{Map, Value, json};

use crate::domain::IdempotencyKey;
use crate::http::problem::{PROBLEMS, Problem};

/// The schemes of an API key. Both carry the same key.
pub(super) fn security_schemes() -> Value {
    json!({
        "ApiKey": {
            "type": "apiKey", "in": "header", "name": "X-API-Key",
            "description": "An organisation's or an operator's key.",
        },
        "Bearer": {
            "type": "http", "scheme": "bearer",
            "description": "The same key as `Authorization: Bearer`.",
        },
    })
}

/// Header fields of answers.
pub(super) fn headers() -> Value {
    let text = |doc: &str, example: &str| json!({"description": doc, "schema": {"type": "string"}, "example": example});
    let seconds = json!({
        "description": "Seconds after which the same request may succeed. Absent where waiting does not help.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 1,
    });
    let quota = "What is left of a limit: `r` of it, fully recovered after `t` seconds.";
    json!({
        "x-trace-id": text("The trace of the request.", "4bf92f3577b34da6a3ce929d0e0e4736"),
        "retry-after": seconds,
        "ratelimit": text(quota, "\"default\";r=999;t=1"),
        "ratelimit-policy": text("The limit: `q` per `w` seconds.", "\"default\";q=1000;w=60"),
        "location": text("The path of what was created.", "/api/endpoints/…"),
        "etag": text("Changes whenever the content does.", "\"5f2c\""),
        "cache-control": text("How long the answer may be kept.", "private, max-age=60"),
        "idempotent-replayed": text("`true`: the answer is that of an earlier request.", "true"),
        "warning": text("What the sender may not have meant.", "299 - \"…\""),
        "www-authenticate": text("The schemes of a key.", "ApiKey realm=\"hookgate\""),
        "accept-encoding": text("Encodings that are read.", "gzip, deflate, zstd, identity"),
    })
}

/// Header fields of requests.
pub(super) fn parameters() -> Map<String, Value> {
    let most = IdempotencyKey::BYTES_MAX;
    let all = json!({
        "x-trace-id": {
            "name": "x-trace-id", "in": "header",
            "description": "The trace of the request: 1 to 128 visible ASCII characters. A malformed one is replaced.",
            "schema": {"type": "string"},
        },
        "traceparent": {
            "name": "traceparent", "in": "header",
            "description": "The trace of the request, as W3C Trace Context. A malformed one is replaced.",
            "schema": {"type": "string"},
        },
        "idempotency-key": {
            "name": "Idempotency-Key", "in": "header",
            "description": "A name for the request, which then runs once: for a day its repeats get the same answer.",
            "schema": {"type": "string", "minLength": 1, "maxLength": most},
        },
        "event-idempotency-key": {
            "name": "Idempotency-Key", "in": "header",
            "description": "The dedup id of an event that has none.",
            "schema": {"type": "string", "minLength": 1, "maxLength": most},
        },
    });
    all.as_object().cloned().unwrap_or_default()
}

/// An example of every error, by its code.
pub(super) fn problem_examples() -> Map<String, Value> {
    let entry = |problem: &Problem| {
        let example = json!({"summary": problem.title, "description": problem.remedy, "value": body(problem)});
        (problem.code.to_owned(), example)
    };
    PROBLEMS.iter().map(entry).collect()
}

fn body(problem: &Problem) -> Value {
    let mut body = json!({
        "type": problem.page(),
        "title": problem.title,
        "status": problem.status,
        "detail": problem.title,
        "code": problem.code,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    });
    if problem.code == "validation_failed" {
        body["errors"] = json!([{
            "field": "type", "pointer": "/type", "code": "required", "message": "is required",
        }]);
    }
    body
}

/// A reference to a component.
pub(super) fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}
