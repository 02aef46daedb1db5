//! Endpoints.
//!
//! The signing secret is in the answer to a creation and on a route of its own; custom headers are in
//! answers about one endpoint only, so that lists can be logged and shared.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::secret::text_for_receivers;
use crate::domain::{
    CustomHeaders, DeliveryPolicy, Endpoint, EndpointId, EndpointKind, EventTypeFilters,
    InboxSettings, PublicKey, Secrets, SignatureScheme, SigningSecret, Timestamp, WebhookFormat,
};
use crate::store::PENDING_COUNTED_MAX;

/// An endpoint in a list.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// How events reach it: `webhook` or `pull`.
    pub kind: EndpointKind,
    /// Whether it is the default inbox.
    pub default_inbox: bool,
    /// Where webhooks are posted; `null` for an inbox. With `endpoints:read` alone, without the values of its query.
    pub url: Option<String>,
    /// Filters of event types; none means all events.
    pub event_types: EventTypeFilters,
    /// The only account whose events it receives; `null` means all.
    pub account_id: Option<String>,
    /// The body of its webhooks; `null` for an inbox.
    pub format: Option<WebhookFormat>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// How its webhooks are signed; `null` for an inbox, and where this server cannot read its secret.
    pub signature: Option<SignatureScheme>,
    /// What receivers verify with; `null` for HMAC.
    pub public_key: Option<PublicKey>,
    /// Whether webhooks are sent to it, or events are kept in it.
    pub enabled: bool,
    /// Why it is disabled.
    pub disabled_reason: Option<String>,
    /// How its deliveries are made.
    #[serde(flatten)]
    pub policy: DeliveryPolicy,
    /// Seconds for which an inbox hides what was received; `null` follows the default, and for webhooks.
    pub visibility_seconds: Option<u32>,
    /// How often an inbox gives an event out at most; `null` follows the default, and for webhooks.
    pub max_receives: Option<u32>,
    /// When an inbox was last read, or enabled again, to the minute; `null` for webhooks.
    pub last_read_at: Option<Timestamp>,
    /// Since when every attempt has failed; `null` if the last one succeeded.
    pub failing_since: Option<Timestamp>,
    /// When an attempt last succeeded, to the minute.
    pub last_success_at: Option<Timestamp>,
    /// When an attempt last failed, to the minute.
    pub last_failure_at: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// One endpoint, with what lists leave out.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EndpointDetail {
    /// As in a list.
    #[serde(flatten)]
    pub endpoint: EndpointView,
    /// Custom headers; `null` where this server cannot read them. With `endpoints:read` alone, every value is `***`.
    pub headers: Option<BTreeMap<String, String>>,
    /// How many deliveries are pending.
    pub pending_count: PendingCount,
    /// Until when this server sends nothing to it, because it failed or asked for it; `null` while it sends.
    pub paused_until: Option<Timestamp>,
}

impl EndpointDetail {
    /// Fields that change without their owner: a patch that sends them back is not about them.
    pub const MEASURED: [&str; 6] = [
        "failing_since",
        "last_success_at",
        "last_failure_at",
        "last_read_at",
        "pending_count",
        "paused_until",
    ];
}

/// A number of pending deliveries: counted up to 10,000, then the text `10000+`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingCount(u64);

impl Serialize for PendingCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 > PENDING_COUNTED_MAX {
            serializer.collect_str(&format_args!("{PENDING_COUNTED_MAX}+"))
        } else {
            serializer.serialize_u64(self.0)
        }
    }
}

impl JsonSchema for PendingCount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PendingCount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let beyond = format!("{PENDING_COUNTED_MAX}+");
        json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": PENDING_COUNTED_MAX},
                {"type": "string", "const": beyond},
            ],
        })
    }
}

impl From<u64> for PendingCount {
    fn from(pending: u64) -> Self {
        Self(pending)
    }
}

/// A new endpoint, with the secret that its receiver needs.
#[derive(JsonSchema, Serialize)]
pub struct NewEndpointView {
    /// As it is read later.
    #[serde(flatten)]
    pub endpoint: EndpointDetail,
    /// What receivers verify with; absent for Ed25519, where they use the public key, and for an inbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// The secret that signs its webhooks, if it has one and this server can read it.
fn current_secret(endpoint: &Endpoint) -> Option<&SigningSecret> {
    let secrets = endpoint.secrets.as_ref().ok();
    secrets.filter(|_| endpoint.kind == EndpointKind::Webhook).map(Secrets::current)
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        let is_webhook = endpoint.kind == EndpointKind::Webhook;
        let secret = current_secret(endpoint);
        let InboxSettings { visibility_seconds, max_receives } = endpoint.config.inbox;
        Self {
            id: endpoint.id,
            kind: endpoint.kind,
            default_inbox: endpoint.default_inbox,
            url: is_webhook.then(|| endpoint.url.to_string()),
            event_types: endpoint.event_types.clone(),
            account_id: endpoint.account_id.clone(),
            format: is_webhook.then_some(endpoint.config.format),
            description: endpoint.description.clone(),
            signature: secret.map(SigningSecret::scheme),
            public_key: secret.and_then(SigningSecret::public_key),
            enabled: endpoint.disabled_reason.is_none(),
            disabled_reason: endpoint.disabled_reason.clone(),
            policy: endpoint.policy.clone(),
            visibility_seconds,
            max_receives,
            last_read_at: endpoint.last_read_at,
            failing_since: endpoint.failing_since,
            last_success_at: endpoint.last_success_at,
            last_failure_at: endpoint.last_failure_at,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

impl EndpointView {
    /// As those read it who may not manage endpoints: what may be a credential is masked.
    #[must_use]
    pub fn masked(self) -> Self {
        Self { url: self.url.map(|url| Endpoint::shown_url(&url)), ..self }
    }
}

impl EndpointDetail {
    /// As [`EndpointView::masked`].
    #[must_use]
    pub fn masked(self) -> Self {
        let mask = |headers: BTreeMap<String, String>| {
            headers.into_keys().map(|name| (name, CustomHeaders::MASK.to_owned())).collect()
        };
        Self { endpoint: self.endpoint.masked(), headers: self.headers.map(mask), ..self }
    }

    /// Of an endpoint with so many pending deliveries, to which nothing is sent until then.
    pub fn new(endpoint: &Endpoint, pending: u64, paused_until: Option<Timestamp>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let headers = endpoint.headers.as_ref().ok();
        Self {
            endpoint: endpoint.into(),
            headers: headers.map(|headers| headers.iter().map(owned).collect()),
            pending_count: PendingCount(pending),
            paused_until,
        }
    }
}

impl From<&Endpoint> for NewEndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        let secret = current_secret(endpoint);
        Self {
            endpoint: EndpointDetail::new(endpoint, 0, None),
            secret: secret.and_then(text_for_receivers),
        }
    }
}
