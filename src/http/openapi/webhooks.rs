//! The webhooks that receivers get, as the document's `webhooks`.

use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::components::reference;
use super::examples;
use crate::domain::{
    DeliveriesExpired, DeliveryExhausted, EndpointDisabled, EventType, InboxPaused, TEST_EVENT_TYPE,
};

/// One webhook: its name in the document, the id of its operation, and its words.
struct DescribedWebhook {
    name: &'static str,
    id: &'static str,
    summary: &'static str,
    data: Value,
}

/// Adds the schemas of their data.
pub(super) fn register(schemas: &mut SchemaGenerator) -> Vec<(String, Value)> {
    let webhook = |name, id, summary, data| DescribedWebhook { name, id, summary, data };
    let any = json!({"description": "The payload, byte for byte as it was posted."});
    let test = json!({"description": "A note that this is a test."});
    let all = [
        webhook("event", "receiveEvent", "An event that was posted", any),
        webhook(TEST_EVENT_TYPE, "receiveTest", "A test event", test),
        webhook(
            EndpointDisabled::TYPE,
            "receiveEndpointDisabled",
            "The server has disabled an endpoint",
            data::<EndpointDisabled<'static>>(schemas),
        ),
        webhook(
            InboxPaused::TYPE,
            "receiveInboxPaused",
            "The server has paused an inbox that nobody reads",
            data::<InboxPaused>(schemas),
        ),
        webhook(
            DeliveriesExpired::TYPE,
            "receiveDeliveriesExpired",
            "Deliveries were given up because their events are not kept any longer",
            data::<DeliveriesExpired<'static>>(schemas),
        ),
        webhook(
            DeliveryExhausted::TYPE,
            "receiveDeliveryExhausted",
            "A delivery has used up its attempts",
            data::<DeliveryExhausted<'static>>(schemas),
        ),
    ];
    all.into_iter().map(|webhook| (webhook.name.to_owned(), webhook.body())).collect()
}

/// The webhooks, with an example of each.
pub(super) fn finish(webhooks: Vec<(String, Value)>, schemas: &Map<String, Value>) -> Value {
    let with_example = |(name, mut item): (String, Value)| {
        let content = item["post"]["requestBody"]["content"].as_object_mut();
        for body in content.into_iter().flat_map(Map::values_mut) {
            body["example"] = examples::example(&body["schema"], schemas);
        }
        (name, item)
    };
    Value::Object(webhooks.into_iter().map(with_example).collect())
}

fn data<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

impl DescribedWebhook {
    fn body(self) -> Value {
        let Self { name, id, summary, data } = self;
        let is_operational = EventType::is_operational(name);
        let event_type = if is_operational {
            json!({"type": "string", "const": name})
        } else {
            json!({"type": "string", "pattern": EventType::PATTERN, "maxLength": EventType::BYTES_MAX,
                   "examples": ["invoice.paid"]})
        };
        let schema = json!({
            "type": "object",
            "properties": {
                "type": &event_type,
                "timestamp": {
                    "type": "string", "format": "date-time",
                    "description": "When it happened, or else was accepted.",
                },
                "account_id": {"type": "string", "description": "The account, if the event has one."},
                "user_id": {"type": "string", "description": "The user, if the event has one."},
                "data": &data,
            },
            "required": ["type", "timestamp", "data"],
            "additionalProperties": false,
        });
        let cloud_event = if is_operational {
            cloud_event(&event_type, &data)
        } else {
            reference("schemas", "CloudEvent")
        };
        let parameters: Vec<Value> =
            parameters().keys().map(|name| reference("parameters", name)).collect();
        json!({"post": {
            "operationId": id,
            "summary": summary,
            "description": "Verify the signature over the raw body, and ignore a `webhook-id` that was processed before.",
            "security": [],
            "parameters": parameters,
            "requestBody": {"required": true, "content": {
                "application/json": {"schema": schema},
                "application/cloudevents+json": {"schema": cloud_event},
            }},
            "responses": {
                "2XX": {"description": "It was received. The body is not read."},
                "410": {"description": "Nothing is to be sent any more: the endpoint is disabled."},
                "default": {"description": "It is sent again, by the retry schedule, not before `Retry-After`."},
            },
        }})
    }
}

/// One of the server's own events, as an endpoint that asked for CloudEvents gets it.
fn cloud_event(event_type: &Value, data: &Value) -> Value {
    json!({
        "type": "object",
        "description": "The same to endpoints with `\"format\": \"cloudevents\"`.",
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            "id": {"type": "string", "format": "uuid", "description": "The id of the event."},
            "source": {"type": "string", "examples": ["urn:hookgate:org:019c1430-6a00-7000-8000-000000000001"]},
            "type": event_type,
            "time": {"type": "string", "format": "date-time"},
            "datacontenttype": {"type": "string", "const": "application/json"},
            "data": data,
        },
        "required": ["specversion", "id", "source", "type", "time", "datacontenttype", "data"],
        "additionalProperties": false,
    })
}

/// Header fields of webhooks, by Standard Webhooks.
pub(super) fn parameters() -> Map<String, Value> {
    let text = json!({"type": "string"});
    let seconds = json!({"type": "string", "pattern": "^[0-9]+$"});
    let all = [
        (
            "webhook-id",
            "webhook-id",
            "The id of the event, the same on every attempt.",
            json!({"type": "string", "format": "uuid"}),
        ),
        (
            "webhook-timestamp",
            "webhook-timestamp",
            "When the attempt started, in seconds since 1970.",
            seconds,
        ),
        (
            "webhook-signature",
            "webhook-signature",
            "One or more signatures, separated by spaces.",
            text.clone(),
        ),
        (
            "webhook-traceparent",
            "traceparent",
            "The trace of the request that posted the event.",
            text.clone(),
        ),
        ("webhook-x-trace-id", "x-trace-id", "The same as its sender wrote it.", text),
    ];
    let parameter = |(component, name, doc, schema): (&str, &str, &str, Value)| {
        let value = json!({"name": name, "in": "header", "required": true, "description": doc, "schema": schema});
        (component.to_owned(), value)
    };
    all.into_iter().map(parameter).collect()
}
