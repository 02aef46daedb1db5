//! Events that the store refused, tried again: the schema or its rules may have changed since.

use bytes::Bytes;

use crate::domain::Timestamp;
use crate::store::{Store, StoreError};

use super::record;

/// What became of a refused event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Requeued {
    /// It is stored and its deliveries are planned, or it had been stored before.
    Stored,
    /// It is refused still; in words, why.
    Refused(String),
}

/// Tries to store what a dead letter keeps of a refused event. Doing it again changes nothing.
///
/// # Errors
/// When the store cannot be asked now.
pub async fn requeue(
    store: &Store,
    record: Vec<u8>,
    now: Timestamp,
) -> Result<Requeued, StoreError> {
    let events = match record::decode(&Bytes::from(record)) {
        Ok(events) => events,
        Err(error) => return Ok(Requeued::Refused(error.to_string())),
    };
    match store.persist_events_across_orgs(&events, None, now).await {
        Ok(_) => Ok(Requeued::Stored),
        Err(refusal @ StoreError::Refused(_)) => Ok(Requeued::Refused(refusal.to_string())),
        Err(error) => Err(error),
    }
}
