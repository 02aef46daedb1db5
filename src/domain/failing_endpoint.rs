//! Endpoints that fail, as operators see them.

use schemars::JsonSchema;
use serde::Serialize;

use super::{EndpointId, OrgId, Timestamp};

/// An endpoint whose attempts have failed since a time. It tells nothing that may be a credential.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct FailingEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// The organisation it belongs to.
    pub org_id: OrgId,
    /// Where webhooks are posted, without the values of its query.
    pub url: String,
    /// Since when every attempt has failed.
    pub failing_since: Timestamp,
    /// When an attempt last failed, to the minute.
    pub last_failure_at: Option<Timestamp>,
    /// When an attempt last succeeded, to the minute.
    pub last_success_at: Option<Timestamp>,
    /// Why it is disabled; `null` while webhooks are sent to it.
    pub disabled_reason: Option<String>,
}
