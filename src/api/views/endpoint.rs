//! Endpoints.
//!
//! The signing secret is in the answer to a creation and on a route of its own; custom headers are in
//! answers about one endpoint only, so that lists can be logged and shared.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::secret::text_for_receivers;
use crate::domain::{
    DeliveryPolicy, Endpoint, EndpointId, EventTypeFilters, PublicKey, Secrets, SignatureScheme,
    SigningSecret, Timestamp,
};
use crate::store::PENDING_COUNTED_MAX;

/// An endpoint in a list.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// Where webhooks are posted.
    pub url: String,
    /// Filters of event types; none means all events.
    pub event_types: EventTypeFilters,
    /// What its owner says of it.
    pub description: Option<String>,
    /// How its webhooks are signed; `null` where this server cannot read its secret.
    pub signature: Option<SignatureScheme>,
    /// What receivers verify with; `null` for HMAC.
    pub public_key: Option<PublicKey>,
    /// Whether webhooks are sent to it.
    pub enabled: bool,
    /// Why it is disabled.
    pub disabled_reason: Option<String>,
    /// How its deliveries are made.
    #[serde(flatten)]
    pub policy: DeliveryPolicy,
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
#[derive(Clone, Debug, Serialize)]
pub struct EndpointDetail {
    /// As in a list.
    #[serde(flatten)]
    pub endpoint: EndpointView,
    /// Custom headers; `null` where this server cannot read them.
    pub headers: Option<BTreeMap<String, String>>,
    /// How many deliveries are pending.
    pub pending_count: PendingCount,
    /// Until when this server sends nothing to it, because it failed or asked for it; `null` while it sends.
    pub paused_until: Option<Timestamp>,
}

impl EndpointDetail {
    /// Fields that change without their owner: a patch that sends them back is not about them.
    pub const MEASURED: [&str; 5] =
        ["failing_since", "last_success_at", "last_failure_at", "pending_count", "paused_until"];
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

/// A new endpoint, with the secret that its receiver needs.
#[derive(Serialize)]
pub struct NewEndpointView {
    /// As it is read later.
    #[serde(flatten)]
    pub endpoint: EndpointDetail,
    /// What receivers verify with; absent for Ed25519, where they use the public key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl From<&Endpoint> for EndpointView {
    fn from(endpoint: &Endpoint) -> Self {
        let secret = endpoint.secrets.as_ref().ok().map(Secrets::current);
        Self {
            id: endpoint.id,
            url: endpoint.url.to_string(),
            event_types: endpoint.event_types.clone(),
            description: endpoint.description.clone(),
            signature: secret.map(SigningSecret::scheme),
            public_key: secret.and_then(SigningSecret::public_key),
            enabled: endpoint.disabled_reason.is_none(),
            disabled_reason: endpoint.disabled_reason.clone(),
            policy: endpoint.policy.clone(),
            failing_since: endpoint.failing_since,
            last_success_at: endpoint.last_success_at,
            last_failure_at: endpoint.last_failure_at,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

impl EndpointDetail {
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
        let secret = endpoint.secrets.as_ref().ok().map(Secrets::current);
        Self {
            endpoint: EndpointDetail::new(endpoint, 0, None),
            secret: secret.and_then(text_for_receivers),
        }
    }
}
