//! The format of webhooks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantNames};

/// What the body of a webhook is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(EnumString, IntoStaticStr, JsonSchema, VariantNames)]
#[strum(serialize_all = "lowercase", parse_err_ty = WebhookFormatError, parse_err_fn = unknown)]
pub enum WebhookFormat {
    /// `{"type":…,"timestamp":…,"data":…}`, as Standard Webhooks suggests.
    #[default]
    Standard,
    /// A `CloudEvent` in the JSON format: an event that was posted as one as it came, any other put into one.
    CloudEvents,
}

/// The text is not a format of webhooks.
#[derive(Debug, thiserror::Error)]
#[error("{}", WebhookFormat::RULE)]
pub struct WebhookFormatError;

fn unknown(_: &str) -> WebhookFormatError {
    WebhookFormatError
}

impl WebhookFormat {
    /// What it must be, for people.
    pub const RULE: &'static str = "must be standard or cloudevents";

    /// Whether it is the default.
    pub fn is_standard(&self) -> bool {
        *self == Self::Standard
    }
}
