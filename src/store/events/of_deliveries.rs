//! The events that deliveries are for, as a claim or a consumer reads them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Event, EventId, Timestamp};
use crate::store::engine::Row;

/// The key of an event.
pub(in crate::store) type EventKey = (EventId, Timestamp);

/// The events of some deliveries, read from rows with the columns of events.
pub(in crate::store) struct EventsOfDeliveries {
    /// `None` for an event without a payload.
    read: HashMap<EventKey, Option<Arc<Event>>>,
    /// Whether a row could not be read: it may be that of any event that is missing.
    has_unreadable: bool,
}

/// What became of the event of a delivery.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum EventOfDelivery<'a> {
    /// It is there.
    Kept(&'a Arc<Event>),
    /// The event or its payload is no longer kept: there is nothing to deliver.
    Gone,
    /// It may be there and cannot be read: the delivery waits.
    Unreadable,
}

impl EventsOfDeliveries {
    /// Reads the rows, whose id is in the column `id`. One that cannot be read is an error in the log.
    pub(in crate::store) fn read(rows: &[Row]) -> Self {
        let mut events = Self { read: HashMap::with_capacity(rows.len()), has_unreadable: false };
        for row in rows {
            match super::read(row, "id") {
                Ok(event) => {
                    let is_kept = !event.payload.is_empty();
                    let key = (event.id, event.received_at);
                    events.read.insert(key, is_kept.then(|| Arc::new(event)));
                }
                Err(error) => {
                    events.has_unreadable = true;
                    tracing::error!(%error, "cannot read an event; its deliveries wait");
                }
            }
        }
        events
    }

    /// The event with this key.
    pub(in crate::store) fn get(&self, key: &EventKey) -> EventOfDelivery<'_> {
        match self.read.get(key) {
            Some(Some(event)) => EventOfDelivery::Kept(event),
            None if self.has_unreadable => EventOfDelivery::Unreadable,
            Some(None) | None => EventOfDelivery::Gone,
        }
    }
}
