//! Requeues quarantined events: tries again to store what the store rejected, since its schema may have changed.

use std::collections::HashMap;

use bytes::Bytes;

use crate::domain::Timestamp;
use crate::store::{EventBatch, Store, StoreError};

use super::record;

/// The result of requeueing an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Requeued {
    /// The event is stored and its deliveries are planned, now or earlier.
    Stored,
    /// The store still rejects the event, for this reason.
    Refused(String),
}

/// Stores the event in a dead letter's record. Repeating this changes nothing.
///
/// # Errors
/// When the store is unavailable.
pub async fn requeue(
    store: &Store,
    record: Vec<u8>,
    now: Timestamp,
) -> Result<Requeued, StoreError> {
    let events = match record::decode(&Bytes::from(record)) {
        Ok(events) => events,
        Err(error) => return Ok(Requeued::Refused(error.to_string())),
    };
    let (deliveries, endpoints) = (Vec::new(), HashMap::new());
    // Planned by the store, since no version of the endpoints is named here.
    let batch =
        EventBatch { events: &events, endpoints: &endpoints, deliveries: &deliveries, lease: None };
    match store.system().persist_events(batch, now).await {
        Ok(_) => Ok(Requeued::Stored),
        Err(refusal @ StoreError::Refused(_)) => Ok(Requeued::Refused(refusal.to_string())),
        Err(error) => Err(error),
    }
}
