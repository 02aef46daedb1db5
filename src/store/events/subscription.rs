//! Which events an endpoint receives: the columns that decide it, also where the rest of a row cannot be read.

use crate::domain::{EndpointKind, Event, EventTypeFilters, Timestamp};
use crate::store::Result;
use crate::store::engine::Row;

/// Which events an endpoint receives.
#[derive(Debug)]
pub(super) struct Subscription {
    event_types: EventTypeFilters,
    account_id: Option<String>,
    cancel_before: Option<Timestamp>,
    pub(super) ordered: bool,
    pub(super) is_pull: bool,
}

impl Subscription {
    /// Reads the columns of an endpoint that it needs.
    pub(super) fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            event_types: row.parse("event_types")?,
            account_id: row.get_opt("account_id")?,
            cancel_before: row.get_opt("cancel_before")?,
            ordered: row.get("ordered")?,
            is_pull: row.parse::<EndpointKind>("kind")? == EndpointKind::Pull,
        })
    }

    /// Whether it receives an event.
    pub(super) fn wants(&self, event: &Event) -> bool {
        wants(&self.event_types, self.account_id.as_deref(), self.cancel_before, event)
    }
}

/// Whether an endpoint with these settings receives an event.
pub(super) fn wants(
    event_types: &EventTypeFilters,
    account_id: Option<&str>,
    cancel_before: Option<Timestamp>,
    event: &Event,
) -> bool {
    event_types.matches(event.event_type.as_str())
        && account_id.is_none_or(|account| event.account_id.as_deref() == Some(account))
        && cancel_before.is_none_or(|until| event.received_at.floor_ms() > until)
}
