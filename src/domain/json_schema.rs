//! JSON Schemas of values whose serialised form their type writes by itself; the others derive theirs.
//!
//! The description of the API (`http::openapi`) is put together from them. Bounds are the constants that are checked.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    ChangeCursor, Cursor, EventType, EventTypeFilter, EventTypeFilters, EventTypeRates,
    LabelCursor, ListCursor, Month, Org, OrgDeletion, OrgId, OrgLimit, OrgLimits, OrgState,
    PublicKey, RetrySchedule, Scope, Scopes, Timestamp,
};

/// Schemas that stand where their type is used, without a name of their own.
macro_rules! inline_schemas {
    ($($type:ty: $schema:tt;)+) => {
        $(impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        })+
    };
}

inline_schemas! {
    Timestamp: {
        "type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"],
    };
    Month: {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$", "examples": ["2026-01"]};
    Cursor: {"type": "string", "minLength": 1};
    ListCursor: {"type": "string", "minLength": 1};
    ListCursor<LabelCursor>: {"type": "string", "minLength": 1};
    ChangeCursor: {"type": "string", "pattern": "^[0-9]+-[0-9]+-[0-9]+-[0-9]+$"};
    EventType: {
        "type": "string",
        "maxLength": EventType::BYTES_MAX,
        "pattern": EventType::PATTERN,
        "examples": ["invoice.paid"],
    };
    EventTypeFilter: {"type": "string", "examples": ["invoice.*"]};
    EventTypeFilters: {
        "type": "array",
        "maxItems": EventTypeFilters::FILTERS_MAX,
        "items": {"type": "string"},
        "examples": [["invoice.*"]],
    };
    EventTypeRates: {
        "type": "object",
        "maxProperties": EventTypeRates::TYPES_MAX,
        "additionalProperties": {
            "type": "integer",
            "minimum": EventTypeRates::RANGE.start(),
            "maximum": EventTypeRates::RANGE.end(),
        },
        "examples": [{"user.login": 60}],
    };
    PublicKey: {"type": "string", "pattern": "^whpk_"};
    RetrySchedule: {
        "type": "array",
        "maxItems": RetrySchedule::WAITS_MAX,
        "items": {"type": "string"},
        "examples": [["5s", "5m"]],
    };
    Scopes: {
        "type": "array",
        "items": {"type": "string", "enum": (scope_names())},
        "examples": [["events:write"]],
    };
}

fn scope_names() -> Vec<&'static str> {
    Scope::ALL.iter().map(|scope| scope.as_str()).collect()
}

/// One property per limit; `null` where it is not set.
impl JsonSchema for OrgLimits {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OrgLimits".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let property = |limit: OrgLimit| {
            let range = limit.range();
            let (min, max) = (range.start(), range.end());
            let schema = json_schema!({
                "type": ["integer", "null"], "minimum": min, "maximum": max,
                "description": "See the same field of the request; `null` where it is not set.",
            });
            (limit.name().to_owned(), schema.to_value())
        };
        let names: Vec<&str> = OrgLimit::ALL.iter().map(|limit| limit.name()).collect();
        let properties: serde_json::Map<_, _> = OrgLimit::ALL.into_iter().map(property).collect();
        json_schema!({"type": "object", "properties": properties, "required": names})
    }
}

/// The fields that an organisation is written with, in their order.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `Org` serialises")]
struct OrgFields {
    /// Its id.
    id: OrgId,
    /// Its name.
    name: String,
    /// Its state.
    state: OrgState,
    #[serde(flatten)]
    limits: OrgLimits,
    /// Its limits by event type, set by operators: events per minute.
    event_type_rates: EventTypeRates,
    /// Its limits by event type, set by itself. They lower those of operators and never raise one.
    own_event_type_rates: EventTypeRates,
    /// When it was created.
    created_at: Timestamp,
    /// Since when it is suspended: its keys are refused and its deliveries wait.
    suspended_at: Option<Timestamp>,
    /// Its deletion, in progress or done.
    deletion: Option<OrgDeletion>,
}

impl JsonSchema for Org {
    fn schema_name() -> Cow<'static, str> {
        "Org".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = OrgFields::json_schema(generator);
        schema.insert("description".into(), "An organisation, as operators see it.".into());
        schema
    }
}
