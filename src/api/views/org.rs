//! An organisation as its own keys read it. Operators read the domain's `Org`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::{ApiKeyId, EventTypeRates, OrgId, OrgLimit, OrgLimits, Scopes, Timestamp};

/// The caller's organisation, its key, and what is left of limits and quotas.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct OwnOrgView {
    /// The organisation's id.
    pub id: OrgId,
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// The caller's key.
    pub key: OwnKeyView,
    /// What may be sent.
    pub limits: OwnLimits,
    /// Events per minute of the event types that the organisation itself limits.
    pub own_event_type_rates: EventTypeRates,
    /// What may be had.
    pub quotas: OwnQuotas,
}

impl OwnOrgView {
    /// Fields that change without their owner: a patch that sends them back is not about them.
    pub const MEASURED: [&str; 11] = [
        "limits.events_left_now",
        "limits.bytes_left_now",
        "limits.deliveries_left_now",
        "limits.changes_left_now",
        "quotas.events_this_month.used",
        "quotas.events_this_month.left",
        "quotas.month_ends_at",
        "quotas.endpoints.used",
        "quotas.endpoints.left",
        "quotas.keys.used",
        "quotas.keys.left",
    ];
}

/// The caller's key.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct OwnKeyView {
    /// Its id.
    pub id: ApiKeyId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Events per minute that may be sent with it; `null` for as many as the organisation may.
    pub rate_limit_per_minute: Option<u32>,
    /// When it expires; `null` if it does not.
    pub expires_at: Option<Timestamp>,
}

/// Limits on what may be sent. What is left is as far as this server knows.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct OwnLimits {
    /// Events per minute: the organisation's own limit, or the server's default.
    pub events_per_minute: u32,
    /// Events at once.
    pub burst: u32,
    /// Events that may be sent now.
    pub events_left_now: u32,
    /// Bytes of bodies per minute; `null` for no limit.
    pub bytes_per_minute: Option<u32>,
    /// Bytes that may be sent now; `null` for no limit.
    pub bytes_left_now: Option<u32>,
    /// Deliveries, per minute, that accepted events become: the organisation's own limit, or ten times its
    /// event limit.
    pub deliveries_per_minute: u32,
    /// Deliveries that accepted events may become now.
    pub deliveries_left_now: u32,
    /// Events per minute of the event types that have a limit: the lower one of an operator's and of the
    /// organisation's own.
    pub event_type_rates: EventTypeRates,
    /// Days that events and deliveries are kept; `null` for ever.
    pub retention_days: Option<u32>,
    /// Days that payloads and response excerpts are kept; `null` for as long as their events.
    pub payload_retention_days: Option<u32>,
    /// Changes per minute by the management API.
    pub changes_per_minute: u32,
    /// Changes that may be made now.
    pub changes_left_now: u32,
    /// Bytes in a payload.
    pub event_bytes_max: usize,
    /// Events in a batch.
    pub batch_events_max: usize,
    /// Bytes in the body of a batch.
    pub batch_body_bytes_max: usize,
}

/// Quotas of what may be had.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct OwnQuotas {
    /// Events accepted this calendar month, UTC.
    pub events_this_month: QuotaView,
    /// When the month ends.
    pub month_ends_at: Timestamp,
    /// Endpoints.
    pub endpoints: QuotaView,
    /// Active keys.
    pub keys: QuotaView,
}

/// One quota.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct QuotaView {
    /// `null` for no quota.
    pub limit: Option<u32>,
    /// What is used.
    pub used: u64,
    /// What is left; `null` for no quota.
    pub left: Option<u64>,
}

impl QuotaView {
    /// What is left of one of an organisation's limits.
    pub fn new(limits: &OrgLimits, limit: OrgLimit, used: u64) -> Self {
        let limit = limits.get(limit);
        Self { limit, used, left: limit.map(|limit| u64::from(limit).saturating_sub(used)) }
    }
}
