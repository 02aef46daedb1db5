//! What both backends read of leases.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;

use crate::domain::{DeliveryId, Lease, LeasedDelivery};

use super::StoreError;
use super::crypto::Keyring;
use super::rows::{self, Columns};

/// Reads claimed rows: `id, attempts`, then an event's columns, then an endpoint's. Deliveries of
/// one event share it, and so do those of one endpoint: each is turned into a value once.
pub(super) fn leased<R: Columns>(
    found: &[R],
    lease: Lease,
    keyring: &Keyring,
) -> Result<Vec<LeasedDelivery>, StoreError> {
    let mut events = HashMap::new();
    let mut endpoints = HashMap::new();
    let mut leased = Vec::with_capacity(found.len());
    for row in found {
        let event_key = (row.uuid(2)?, row.moment(10)?);
        let event = shared(&mut events, event_key, || rows::event(row, 2))?;
        let endpoint = shared(&mut endpoints, row.uuid(12)?, || rows::endpoint(row, 12, keyring))?;
        leased.push(LeasedDelivery {
            id: DeliveryId::from_uuid(row.uuid(0)?),
            event,
            endpoint,
            attempts: rows::fits("attempts", row.number(1)?)?,
            lease,
        });
    }
    Ok(leased)
}

fn shared<K: Eq + Hash, V>(
    known: &mut HashMap<K, Arc<V>>,
    key: K,
    read: impl FnOnce() -> Result<V, StoreError>,
) -> Result<Arc<V>, StoreError> {
    match known.entry(key) {
        Entry::Occupied(entry) => Ok(Arc::clone(entry.get())),
        Entry::Vacant(entry) => Ok(Arc::clone(entry.insert(Arc::new(read()?)))),
    }
}
