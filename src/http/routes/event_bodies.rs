//! What the routes that post events take, for the description of the API. `domain::new_event` parses it.

use serde_json::{Value, json};

use crate::config::ENVELOPE_BYTES_MAX;
use crate::domain::EventType;
use crate::http::problem::{self, Problem};
use crate::http::request::{
    BODY_PROBLEMS, DescribesBody, JSON_PROBLEMS, OnDuplicate, RequestSchema, header, parameter,
};
use crate::http::state::Settings;

/// One event.
#[derive(Debug)]
pub(in crate::http) enum SingleEvent {}

/// Some events.
#[derive(Debug)]
pub(in crate::http) enum EventBatchBody {}

/// Any body.
#[derive(Debug)]
pub(in crate::http) enum RawEvent {}

const NEW_EVENT: &str = "#/components/schemas/NewEvent";
const CLOUD_EVENT: &str = "#/components/schemas/CloudEvent";

/// Why events are not accepted now.
const ACCEPT_PROBLEMS: [Problem; 13] = [
    problem::RATE_LIMITED,
    problem::BYTE_RATE_LIMITED,
    problem::DELIVERY_RATE_LIMITED,
    problem::KEY_RATE_LIMITED,
    problem::EVENT_TYPE_RATE_LIMITED,
    problem::MONTH_USED_UP,
    problem::BATCH_OVER_DELIVERY_LIMIT,
    problem::JOURNAL_SHARE_USED_UP,
    problem::JOURNAL_BUSY,
    problem::JOURNAL_FULL,
    problem::JOURNAL_UNAVAILABLE,
    problem::SHUTTING_DOWN,
    problem::STORAGE_LOW,
];

impl DescribesBody for SingleEvent {
    fn describe(schema: &mut RequestSchema) {
        schema.body = Some(json!({ "$ref": NEW_EVENT }));
        schema.components.push(("NewEvent", event()));
        schema.media_types = &["application/json"];
        schema.components.push(("CloudEvent", cloud_event()));
        schema.other_bodies.push(("application/cloudevents+json", json!({ "$ref": CLOUD_EVENT })));
        schema.headers.extend(cloud_event_headers());
        schema.query.push(on_duplicate());
        schema.problems.extend(JSON_PROBLEMS);
        refusals(schema);
    }
}

impl DescribesBody for EventBatchBody {
    fn describe(schema: &mut RequestSchema) {
        let events = json!({
            "type": "array",
            "minItems": 1,
            "maxItems": Settings::BATCH_EVENTS_MAX,
            "items": {"$ref": NEW_EVENT},
        });
        let object = json!({
            "type": "object",
            "properties": {"events": events},
            "required": ["events"],
            "additionalProperties": false,
        });
        schema.body = Some(json!({"oneOf": [events, object]}));
        schema.components.push(("NewEvent", event()));
        schema.media_types = &["application/json"];
        schema.components.push(("CloudEvent", cloud_event()));
        let cloud_events = json!({
            "type": "array",
            "minItems": 1,
            "maxItems": Settings::BATCH_EVENTS_MAX,
            "items": {"$ref": CLOUD_EVENT},
        });
        schema.other_bodies.push(("application/cloudevents-batch+json", cloud_events));
        let lines = json!({"type": "string", "description": "One event per line."});
        for media_type in ["application/x-ndjson", "application/ndjson", "application/jsonl"] {
            schema.other_bodies.push((media_type, lines.clone()));
        }
        schema.problems.extend(JSON_PROBLEMS);
        refusals(schema);
    }
}

impl DescribesBody for RawEvent {
    fn describe(schema: &mut RequestSchema) {
        let doc = "JSON, which becomes the payload byte for byte, or anything else, of whatever media type.";
        schema.other_bodies.push(("application/json", json!({"description": doc})));
        for media_type in ["text/plain", "application/octet-stream"] {
            schema.other_bodies.push((media_type, json!({"description": doc})));
        }
        schema.body_is_optional = true;
        schema.query.push(on_duplicate());
        let [dedup_id, account_id, user_id] = LABELS;
        schema.headers.extend([
            header("X-Event-Type", "The type of the event; `raw` if unset.", &event_type()),
            header("X-Dedup-Id", dedup_id, &label(false)),
            header("X-Account-Id", account_id, &label(false)),
            header("X-User-Id", user_id, &label(false)),
            header("X-Event-Timestamp", HAPPENED, &json!({"type": "string"})),
        ]);
        schema.problems.push(problem::VALIDATION_FAILED);
        refusals(schema);
    }
}

const LABELS: [&str; 3] = [
    "The sender's own id for the event. Within seven days the same one is the same event: it is stored once.",
    "The account that the event belongs to.",
    "The user that the event belongs to.",
];
const HAPPENED: &str = "When the event happened, RFC 3339; when it was accepted if unset.";

fn refusals(schema: &mut RequestSchema) {
    schema.problems.extend(BODY_PROBLEMS);
    schema.problems.extend(ACCEPT_PROBLEMS);
}

fn on_duplicate() -> Value {
    let doc = "`report` tells whether an event with the dedup id is stored; `reject` also refuses one with another \
               content.";
    parameter::<OnDuplicate>("on_duplicate", doc)
}

fn event_type() -> Value {
    json!({
        "type": "string",
        "maxLength": EventType::BYTES_MAX,
        "pattern": EventType::PATTERN,
        "not": {"pattern": "^hookgate\\."},
    })
}

/// Bytes are counted, of which a character has up to four.
fn label(nullable: bool) -> Value {
    let types = if nullable { json!(["string", "null"]) } else { json!("string") };
    json!({"type": types, "minLength": 1, "maxLength": 255})
}

/// The attributes of a `CloudEvent` in binary mode.
fn cloud_event_headers() -> [Value; 6] {
    let attribute = |name, doc: &str| {
        header(name, &format!("Of a CloudEvent in binary mode: {doc}"), &json!({"type": "string"}))
    };
    [
        attribute("ce-specversion", "`1.0`, which tells that the body is the data of one."),
        attribute("ce-id", "its id, unique within its source."),
        attribute("ce-source", "its source, a URI reference."),
        attribute("ce-type", "its type."),
        attribute("ce-subject", "its subject, which becomes the account."),
        attribute("ce-time", "when it happened."),
    ]
}

fn cloud_event() -> Value {
    let text = |doc: &str| json!({"type": "string", "minLength": 1, "description": doc});
    let optional =
        |doc: &str| json!({"type": ["string", "null"], "minLength": 1, "description": doc});
    let mut kind = event_type();
    kind["description"] = "The type of the event.".into();
    let doc = "An event as CloudEvents 1.0 has it. It is stored and delivered as it is, with its extensions.";
    json!({
        "type": "object",
        "description": doc,
        "properties": {
            "specversion": {"type": "string", "const": "1.0", "description": "The version."},
            "id": text("Unique within its source: both together are the dedup id."),
            "source": text("A URI reference."),
            "type": kind,
            "subject": optional("The account that the event belongs to."),
            "time": {"type": ["string", "null"], "format": "date-time", "description": HAPPENED},
            "datacontenttype": optional("The media type of the data."),
            "dataschema": optional("A URI of its schema."),
            "data": {"description": "Any JSON value."},
            "data_base64": optional("Other data, as base64."),
        },
        "required": ["specversion", "id", "source", "type"],
        "additionalProperties": {"description": "Extension attributes, and others."},
        "examples": [{
            "specversion": "1.0", "id": "A234-1234", "source": "/billing", "type": "invoice.paid",
            "subject": "acme", "time": "2026-01-31T12:00:00Z", "data": {"id": "in_1"},
        }],
    })
}

fn event() -> Value {
    let described = |mut schema: Value, doc: String| {
        schema["description"] = doc.into();
        schema
    };
    let [dedup_id, account_id, user_id] = LABELS.map(str::to_owned);
    let payload = format!(
        "Any JSON value, stored and delivered byte for byte. At most 256 KiB unless the server or the organisation \
         has another limit; the body may have {ENVELOPE_BYTES_MAX} bytes more."
    );
    let rule = "Words of letters, digits, `_` and `-`, separated by `.`, `:` or `/`; not under `hookgate.`.";
    let happened = json!({"type": ["string", "null"], "format": "date-time"});
    json!({
        "type": "object",
        "properties": {
            "type": described(event_type(), rule.to_owned()),
            "payload": described(json!({}), payload),
            "dedup_id": described(label(true), dedup_id),
            "account_id": described(label(true), account_id),
            "user_id": described(label(true), user_id),
            "timestamp": described(happened, HAPPENED.to_owned()),
        },
        "required": ["type", "payload"],
        "additionalProperties": false,
    })
}
