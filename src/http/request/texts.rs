//! Values that are written as text: strings in a body, or query parameters.

use std::str::FromStr;

use serde_json::{Value, json};
use strum::VariantNames;

use crate::api::accounts::SummaryWindow;
use crate::domain::{
    ChangeKind, DeadReason, DeliveryStatus, EndpointId, EndpointKind, ErrorClass, EventId,
    EventType, EventTypeFilter, LabelCursor, ListCursor, ListOrder, MetricsGroup, Month, OrgId,
    PageRequest, SignatureScheme, SigningSecret, Timestamp, TimestampError, TraceFilter, Violation,
    WebhookFormat,
};
use crate::telemetry::LogFilter;

/// A value that is written as text: a string in a body, or a query parameter.
pub(in crate::http) trait Text: Sized {
    /// What it must be, for people.
    const RULE: &'static str;

    /// Reads it; `None` where it breaks the rule.
    fn from_text(text: &str) -> Option<Self>;

    /// What is wrong with a text that breaks the rule.
    fn fault(_text: &str) -> String {
        Self::RULE.to_owned()
    }

    /// What is wrong with a value that is no text.
    fn type_fault(_value: &Value) -> String {
        "must be a string".to_owned()
    }

    /// Its JSON Schema.
    fn text_schema() -> Value;
}

/// Values whose text their type reads by itself.
macro_rules! texts {
    ($($type:ty: $rule:expr, $schema:tt;)+) => {
        $(impl Text for $type {
            const RULE: &'static str = $rule;

            fn from_text(text: &str) -> Option<Self> {
                Self::from_str(text).ok()
            }

            fn text_schema() -> Value {
                json!($schema)
            }
        })+
    };
}

texts! {
    EventTypeFilter: EventTypeFilter::RULE,
        {"type": "string", "examples": ["user.login", "user.*", "*"]};
    EventType: EventType::RULE,
        {"type": "string", "maxLength": 128, "examples": ["user.login"]};
    WebhookFormat: WebhookFormat::RULE,
        {"type": "string", "enum": WebhookFormat::VARIANTS, "default": "standard"};
    EndpointKind: EndpointKind::RULE, {"type": "string", "enum": EndpointKind::VARIANTS};
    EndpointId: "must be the id of an endpoint", {"type": "string", "format": "uuid"};
    EventId: "must be the id of an event", {"type": "string", "format": "uuid"};
    OrgId: "must be the id of an organisation", {"type": "string", "format": "uuid"};
    ListCursor<LabelCursor>: "must be a next_cursor of an earlier answer", {"type": "string"};
    MetricsGroup: MetricsGroup::RULE,
        {"type": "string", "enum": MetricsGroup::VARIANTS, "default": "hour"};
    ListCursor: "must be a next_cursor or prev_cursor of an earlier answer", {"type": "string"};
    TraceFilter: "must be a trace id: 1 to 128 visible ASCII characters",
        {"type": "string", "minLength": 1, "maxLength": 128};
    ErrorClass: "must be blocked, signing, internal, dns, connect, tls, timeout, reset, protocol or status",
        {"type": "string", "enum": (words(ErrorClass::ALL))};
    ChangeKind: "must be event, delivery or dead_letter",
        {"type": "string", "enum": ChangeKind::VARIANTS};
    DeliveryStatus: "must be pending, delivered, dead or cancelled",
        {"type": "string", "enum": DeliveryStatus::VARIANTS};
    DeadReason: "must be exhausted, gone, unstorable or expired",
        {"type": "string", "enum": DeadReason::VARIANTS};
    SignatureScheme: "must be hmac-sha256 or ed25519",
        {"type": "string", "enum": SignatureScheme::VARIANTS};
    SigningSecret: "must be whsec_ followed by the base64 of 24 to 64 bytes, or whsk_ followed by the \
                    base64 of an Ed25519 key (its seed, or seed and public key)",
        {"type": "string", "pattern": "^wh(sec|sk)_"};
}

impl Text for Timestamp {
    const RULE: &'static str = Self::RULE;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn fault(text: &str) -> String {
        text.parse::<Self>().err().unwrap_or(TimestampError::Format).to_string()
    }

    fn type_fault(value: &Value) -> String {
        let error = if value.is_number() { TimestampError::Number } else { TimestampError::Format };
        error.to_string()
    }

    fn text_schema() -> Value {
        json!({"type": "string", "format": "date-time"})
    }
}

impl Text for LogFilter {
    const RULE: &'static str = Self::RULE;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text_schema() -> Value {
        json!({"type": "string", "maxLength": Self::BYTES_MAX, "examples": ["info", "hookgate=debug,sqlx=warn"]})
    }
}

impl Text for ListOrder {
    const RULE: &'static str = "must be asc or desc";

    fn from_text(text: &str) -> Option<Self> {
        [Self::NewestFirst, Self::OldestFirst].into_iter().find(|order| order.as_str() == text)
    }

    fn text_schema() -> Value {
        json!({"type": "string", "enum": ["asc", "desc"], "default": "desc"})
    }
}

/// The HTTP status of an answer that was no success.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct FailedStatus(pub(in crate::http) u16);

impl Text for FailedStatus {
    const RULE: &'static str =
        "must be a status of a failure, from 300 to 999: 2xx is status=delivered";

    fn from_text(text: &str) -> Option<Self> {
        let code = text.parse().ok()?;
        (300..=999).contains(&code).then_some(Self(code))
    }

    fn text_schema() -> Value {
        json!({"type": "integer", "minimum": 300, "maximum": 999})
    }
}

/// `true` or `false` as a query parameter.
#[derive(Debug)]
pub(in crate::http) struct Flag(pub(in crate::http) bool);

impl Text for Flag {
    const RULE: &'static str = "must be true or false";

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    fn text_schema() -> Value {
        json!({"type": "boolean"})
    }
}

/// What a list shows beside what it always does.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) enum Include {
    /// Payloads.
    Payload,
}

impl Text for Include {
    const RULE: &'static str = "must be payload";

    fn from_text(text: &str) -> Option<Self> {
        (text == "payload").then_some(Self::Payload)
    }

    fn text_schema() -> Value {
        json!({"type": "string", "enum": ["payload"]})
    }
}

/// What becomes of an event whose dedup id is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::http) enum OnDuplicate {
    /// The answer says so.
    Report,
    /// And one with another content is refused.
    Reject,
}

impl Text for OnDuplicate {
    const RULE: &'static str = "must be report or reject";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "report" => Some(Self::Report),
            "reject" => Some(Self::Reject),
            _ => None,
        }
    }

    fn text_schema() -> Value {
        json!({"type": "string", "enum": ["report", "reject"]})
    }
}

/// The length of a page.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct PageLimit(pub(in crate::http) u32);

impl Text for PageLimit {
    const RULE: &'static str = "must be a number from 1 to 500";

    fn from_text(text: &str) -> Option<Self> {
        let limit = text.parse().ok()?;
        (1..=PageRequest::LIMIT_MAX).contains(&limit).then_some(Self(limit))
    }

    fn text_schema() -> Value {
        json!({
            "type": "integer",
            "minimum": 1,
            "maximum": PageRequest::LIMIT_MAX,
            "default": PageRequest::LIMIT_DEFAULT,
        })
    }
}

/// A whole number of this range as a query parameter.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Number<const MIN: u32, const MAX: u32>(pub(in crate::http) u32);

impl<const MIN: u32, const MAX: u32> Text for Number<MIN, MAX> {
    const RULE: &'static str = "must be a whole number in its range, in digits";

    fn from_text(text: &str) -> Option<Self> {
        let number = text.parse().ok()?;
        (MIN..=MAX).contains(&number).then_some(Self(number))
    }

    fn fault(_: &str) -> String {
        Violation::range_rule(&(MIN..=MAX))
    }

    fn text_schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A window of a summary by its name.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct WindowName(pub(in crate::http) SummaryWindow);

impl Text for WindowName {
    const RULE: &'static str = "must be last_24h or last_7d";

    fn from_text(text: &str) -> Option<Self> {
        match text {
            "last_24h" => Some(Self(SummaryWindow::Last24Hours)),
            "last_7d" => Some(Self(SummaryWindow::Last7Days)),
            _ => None,
        }
    }

    fn text_schema() -> Value {
        json!({"type": "string", "enum": ["last_24h", "last_7d"], "default": "last_24h"})
    }
}

impl Text for Month {
    const RULE: &'static str = Self::RULE;

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn text_schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$", "examples": ["2026-01"]})
    }
}

/// The id of an account or user, as tenants name it.
#[derive(Debug)]
pub(in crate::http) struct Label(pub(in crate::http) String);

/// Bytes in an account's or user's id at most, as when events are posted.
const LABEL_BYTES_MAX: usize = 255;

impl Text for Label {
    const RULE: &'static str = "must be 1 to 255 bytes without control characters";

    fn from_text(text: &str) -> Option<Self> {
        let fits = (1..=LABEL_BYTES_MAX).contains(&text.len());
        (fits && !text.chars().any(char::is_control)).then(|| Self(text.to_owned()))
    }

    fn text_schema() -> Value {
        json!({"type": "string", "minLength": 1, "maxLength": LABEL_BYTES_MAX})
    }
}

fn words(classes: &[ErrorClass]) -> Vec<&'static str> {
    classes.iter().map(|class| class.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_words_name_every_word() {
        let rules = [
            (DeliveryStatus::RULE, DeliveryStatus::VARIANTS),
            (DeadReason::RULE, DeadReason::VARIANTS),
            (SignatureScheme::RULE, SignatureScheme::VARIANTS),
        ];
        for (rule, words) in rules {
            assert!(words.iter().all(|word| rule.contains(word)), "{rule}: {words:?}");
        }
        for class in words(ErrorClass::ALL) {
            assert!(ErrorClass::RULE.contains(class), "{class}");
        }
    }

    #[test]
    fn page_limit_is_stated_in_its_rule() {
        assert!(PageLimit::RULE.ends_with(&PageRequest::LIMIT_MAX.to_string()));
    }
}
