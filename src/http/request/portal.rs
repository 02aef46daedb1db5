//! The values of requests about the portal.

use serde_json::{Value, json};

use super::rules::{Checked, Rules};
use super::texts::Text;
use super::values::{FromJson, scopes, scopes_schema};
use crate::domain::{
    FrameOrigin, PortalColour, PortalGrant, PortalLogo, PortalSettings, ReturnUrl, Scopes,
    Violation,
};

/// What customers know an organisation by.
#[derive(Debug)]
pub(in crate::http) struct PortalName(pub(in crate::http) String);

impl Text for PortalName {
    const RULE: &'static str = "must be 1 to 100 bytes without control characters";

    fn from_text(text: &str) -> Option<Self> {
        PortalSettings::check_name(text).ok().map(|()| Self(text.to_owned()))
    }

    fn text_schema() -> Value {
        json!({"type": "string", "minLength": 1, "maxLength": PortalSettings::NAME_BYTES_MAX})
    }
}

/// The scopes of a session of the portal, of those that the caller has.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct PortalScopes(pub(in crate::http) Scopes);

impl FromJson for PortalScopes {
    fn from_json(field: &'static str, value: &Value, rules: &Rules<'_>) -> Checked<Self> {
        scopes(field, value, rules.caller.of_those(PortalGrant::SCOPES)).map(Self)
    }

    fn schema() -> Value {
        scopes_schema(PortalGrant::SCOPES.iter())
    }
}

/// The origins of pages that may show the portal in a frame, each once.
#[derive(Debug)]
pub(in crate::http) struct FrameOrigins(pub(in crate::http) Vec<FrameOrigin>);

impl FromJson for FrameOrigins {
    /// Names every origin that is malformed, not only the first.
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let items = value.as_array().filter(|items| items.len() <= FrameOrigin::MAX);
        let Some(items) = items else {
            let rule = format!("must be an array of at most {} origins", FrameOrigin::MAX);
            return Err(vec![Violation::new(field, "type", rule)]);
        };
        let (mut origins, mut violations) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            match item.as_str().map(str::parse::<FrameOrigin>) {
                Some(Ok(origin)) if origins.contains(&origin) => {}
                Some(Ok(origin)) => origins.push(origin),
                _ => {
                    let field = format!("{field}[{index}]");
                    violations.push(Violation::new(field, "format", FrameOrigin::RULE));
                }
            }
        }
        if violations.is_empty() { Ok(Self(origins)) } else { Err(violations) }
    }

    fn schema() -> Value {
        json!({
            "type": "array",
            "maxItems": FrameOrigin::MAX,
            "items": {"type": "string", "format": "uri"},
        })
    }
}

macro_rules! portal_texts {
    ($($type:ty: $schema:tt;)+) => {
        $(impl Text for $type {
            const RULE: &'static str = Self::RULE;

            fn from_text(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn text_schema() -> Value {
                json!($schema)
            }
        })+
    };
}

portal_texts! {
    ReturnUrl: {"type": "string", "format": "uri", "maxLength": (ReturnUrl::BYTES_MAX)};
    PortalColour: {"type": "string", "pattern": "^#[0-9A-Fa-f]{6}$", "examples": ["#3545b0"]};
    PortalLogo: {"type": "string", "pattern": "^data:image/(png|jpeg|webp);base64,"};
}
