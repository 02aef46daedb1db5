//! The principal: who makes a request, and what they may do.

use std::sync::Arc;

use super::usage::OrgUsage;
use crate::domain::{ApiKeyId, EventTypeRates, OrgLimits, Role, Scopes};

/// The caller of a request, with everything that requests are checked against, so that a check looks nothing
/// up.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The key that was presented.
    pub key_id: ApiKeyId,
    /// Whom the key acts for.
    pub role: Role,
    /// The key's permissions.
    pub scopes: Scopes,
    /// Whether its organisation is suspended.
    pub suspended: bool,
    /// The limits of its organisation; none are set for an operator.
    pub limits: OrgLimits,
    /// The only account of its organisation that it sees and manages; `None` for all of it. Keys have none: sessions of
    /// the portal do.
    pub account: Option<Arc<str>>,
    /// Its organisation's limits by event type.
    pub event_type_rates: EventTypeRates,
    /// The key's own limit of events per minute.
    pub rate_limit_per_minute: Option<u32>,
    /// The usage of its organisation; unused for an operator.
    pub usage: Arc<OrgUsage>,
}
