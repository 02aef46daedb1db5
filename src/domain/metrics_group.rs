//! By what event metrics are grouped.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantNames};

/// By what event metrics are grouped.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    JsonSchema,
    Serialize,
    EnumString,
    IntoStaticStr,
    VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = MetricsGroupError, parse_err_fn = unknown_group)]
pub enum MetricsGroup {
    /// By minute.
    Minute,
    /// By hour.
    Hour,
    /// By day in UTC.
    Day,
    /// By event type.
    Type,
    /// By account.
    Account,
    /// By user of an account.
    User,
    /// By endpoint.
    Endpoint,
}

/// The text is not a group.
#[derive(Debug, thiserror::Error)]
#[error("{}", MetricsGroup::RULE)]
pub struct MetricsGroupError;

impl MetricsGroup {
    /// What it must be, for people.
    pub const RULE: &'static str = "must be minute, hour, day, type, account, user or endpoint";

    /// The word in requests and answers.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_group(_: &str) -> MetricsGroupError {
    MetricsGroupError
}
