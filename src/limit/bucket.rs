//! What rate limits count, and of whom.

use std::sync::Arc;

use crate::domain::{ApiKeyId, EventType, OrgId};

/// What is counted, and of whom.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Bucket {
    /// An organisation's events.
    Events(OrgId),
    /// Bytes of an organisation's request bodies.
    Bytes(OrgId),
    /// Deliveries that an organisation's events become.
    Deliveries(OrgId),
    /// An organisation's writes by the management API.
    Writes(OrgId),
    /// What one account of an organisation changes in the portal.
    AccountWrites(OrgId, Arc<str>),
    /// Writes with an operator's key.
    OperatorWrites(ApiKeyId),
    /// An organisation's lists and look-ups.
    Reads(OrgId),
    /// What one account of an organisation reads in the portal.
    AccountReads(OrgId, Arc<str>),
    /// Lists and look-ups with an operator's key.
    OperatorReads(ApiKeyId),
    /// Events posted with a key.
    KeyEvents(ApiKeyId),
    /// An organisation's events of a type.
    TypeEvents(OrgId, EventType),
}

impl Bucket {
    /// Bytes that it points to.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::TypeEvents(_, event_type) => event_type.as_str().len(),
            Self::AccountWrites(_, account) | Self::AccountReads(_, account) => account.len(),
            Self::Events(_)
            | Self::Bytes(_)
            | Self::Deliveries(_)
            | Self::Writes(_)
            | Self::OperatorWrites(_)
            | Self::Reads(_)
            | Self::OperatorReads(_)
            | Self::KeyEvents(_) => 0,
        }
    }
}
