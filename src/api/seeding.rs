//! Seeding: storing made-up events, so that reads can be tried and measured on a large store.
//!
//! Events go to the store as the workers of ingest write them, with everything that is counted of them, but past the
//! journal and the limits of the organisation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::orgs;
use super::refusal::Refusal;
use super::subsystems::Subsystems;
use crate::domain::{Event, OrgId, PageRequest, Timestamp, Violation};
use crate::store::EventBatch;

/// How long one day's partitions wait for their locks.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Partitions are created a week at a time.
const WEEK: Duration = Duration::from_hours(7 * 24);

/// Prepares the store for events of an organisation that were accepted from `from` until `until`. From then on the
/// organisation counts as created by `from`.
///
/// # Errors
/// When the organisation does not exist, or has endpoints: their receivers would be sent every event.
pub async fn prepare(
    subsystems: &Subsystems,
    org: OrgId,
    (from, until): (Timestamp, Timestamp),
) -> Result<(), Refusal> {
    orgs::existing(subsystems, org).await?;
    let first = PageRequest::first(1);
    if !subsystems.store.endpoints(org, None, first).await?.data.is_empty() {
        let rule = "must be an organisation without endpoints: each would be sent every event";
        return Err(Violation::new("org", "endpoints", rule).into());
    }
    let system = subsystems.store.system();
    system.backdate_org(org, from, subsystems.clock.now()).await?;
    let mut day = from;
    loop {
        system.create_partitions(day, LOCK_TIMEOUT).await?;
        if day >= until {
            return Ok(());
        }
        day = day.plus(WEEK).min(until);
    }
}

/// Stores events and returns how many of them are new: those that are there already are left as they are.
///
/// # Errors
/// When the store fails. Then none of them is stored.
pub async fn store(subsystems: &Subsystems, events: &[Arc<Event>]) -> Result<usize, Refusal> {
    let (endpoints, deliveries) = (HashMap::new(), Vec::new());
    let batch = EventBatch { events, endpoints: &endpoints, deliveries: &deliveries, lease: None };
    let now = subsystems.clock.now();
    Ok(subsystems.store.system().persist_events(batch, now).await?.stored)
}
