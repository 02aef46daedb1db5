//! Dead letters: reading, deleting and replaying them.

use super::deliveries;
use super::reach::{CallerReach, merged};
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{DeadLetterReplay, StoredEvent};
use crate::domain::{
    Actor, Cursor, DeadLetter, DeadLetterDeletion, DeadLetterFilter, DeadLetterId, Page,
    PageRequest,
};
use crate::ingest::{Requeued, requeue};
use crate::store::DeliveryRefusal;

/// A page of the dead letters in reach, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    filter: &DeadLetterFilter,
    page: PageRequest,
) -> Result<Page<DeadLetter>, Refusal> {
    let (reach, store) = (reach.into(), &subsystems.store);
    let Some(endpoints) = reach.endpoints(subsystems, filter.endpoint_id).await? else {
        return Ok(store.dead_letters(reach.org(), filter, page).await?);
    };
    let mut lists = Vec::with_capacity(endpoints.len());
    for id in endpoints {
        let filter = DeadLetterFilter { endpoint_id: Some(id), ..filter.clone() };
        lists.push(store.dead_letters(reach.org(), &filter, page).await?);
    }
    let position = |row: &DeadLetter| Cursor { at: row.created_at, id: row.id.uuid() };
    Ok(merged(lists, page, position))
}

/// One dead letter.
///
/// # Errors
/// When it does not exist.
pub async fn one(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeadLetterId,
) -> Result<DeadLetter, Refusal> {
    let reach = reach.into();
    let missing = Missing::DeadLetter(reach.org(), id);
    let letter = subsystems.store.dead_letter(reach.org(), id).await?;
    let letter = letter.ok_or(Refusal::NotFound(missing))?;
    reach.require_endpoint(subsystems, letter.endpoint_id, missing).await?;
    Ok(letter)
}

/// Deletes a dead letter. Its delivery stays dead.
///
/// # Errors
/// When it does not exist.
pub async fn delete(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeadLetterId,
    by: &Actor,
) -> Result<(), Refusal> {
    let reach = reach.into();
    let org = reach.org();
    if reach.account().is_some() {
        one(subsystems, reach, id).await?;
    }
    let (why, now) = (DeadLetterDeletion::Discarded, subsystems.clock.now());
    let deleted = subsystems.store.delete_dead_letter(org, id, why, by, now).await?;
    if deleted { Ok(()) } else { Err(Missing::DeadLetter(org, id).into()) }
}

/// Replays a dead letter: repeats its delivery, or stores its quarantined event if the store takes it
/// this time.
///
/// # Errors
/// When it does not exist, its endpoint is disabled or deleted, its event is removed, or the store rejects the event
/// again.
pub async fn replay(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeadLetterId,
    by: &Actor,
) -> Result<DeadLetterReplay, Refusal> {
    let reach = reach.into();
    let org = reach.org();
    let letter = one(subsystems, reach.clone(), id).await?;
    if let Some(delivery) = letter.delivery_id {
        let delivery = deliveries::replay(subsystems, reach, delivery, by).await?;
        return Ok(DeadLetterReplay::Delivery(delivery.into()));
    }
    let store = &subsystems.store;
    // The record goes with the payloads.
    let record = store.quarantined_record(org, id).await?;
    let record = record.ok_or(Refusal::Delivery(DeliveryRefusal::EventRemoved))?;
    match requeue(store, record, subsystems.clock.now()).await? {
        Requeued::Stored => {
            let (why, now) = (DeadLetterDeletion::Stored, subsystems.clock.now());
            store.delete_dead_letter(org, id, why, by, now).await?;
            subsystems.wake_dispatcher();
            let stored = StoredEvent { event_id: letter.event_id, status: "stored" };
            Ok(DeadLetterReplay::Stored(stored))
        }
        Requeued::Refused(why) => Err(Refusal::StillRefused(why)),
    }
}
