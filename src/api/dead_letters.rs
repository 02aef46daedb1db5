//! Dead letters: reading, deleting and replaying them.

use super::deliveries;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{DeadLetterReplay, StoredEvent};
use crate::domain::{
    Actor, DeadLetter, DeadLetterDeletion, DeadLetterFilter, DeadLetterId, OrgId, Page, PageRequest,
};
use crate::ingest::{Requeued, requeue};
use crate::store::DeliveryRefusal;

/// A page of an organisation's dead letters, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &DeadLetterFilter,
    page: PageRequest,
) -> Result<Page<DeadLetter>, Refusal> {
    Ok(subsystems.store.dead_letters(org, filter, page).await?)
}

/// One dead letter.
///
/// # Errors
/// When it does not exist.
pub async fn one(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeadLetterId,
) -> Result<DeadLetter, Refusal> {
    subsystems.store.dead_letter(org, id).await?.ok_or_else(|| missing(org, id))
}

/// Deletes a dead letter. Its delivery stays dead.
///
/// # Errors
/// When it does not exist.
pub async fn delete(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeadLetterId,
    by: &Actor,
) -> Result<(), Refusal> {
    let (why, now) = (DeadLetterDeletion::Discarded, subsystems.clock.now());
    let deleted = subsystems.store.delete_dead_letter(org, id, why, by, now).await?;
    if deleted { Ok(()) } else { Err(missing(org, id)) }
}

/// Replays a dead letter: repeats its delivery, or stores its quarantined event if the store takes it
/// this time.
///
/// # Errors
/// When it does not exist, its endpoint is disabled or deleted, its event is removed, or the store rejects the event
/// again.
pub async fn replay(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeadLetterId,
    by: &Actor,
) -> Result<DeadLetterReplay, Refusal> {
    let letter = one(subsystems, org, id).await?;
    if let Some(delivery) = letter.delivery_id {
        let delivery = deliveries::replay(subsystems, org, delivery, by).await?;
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

fn missing(org: OrgId, id: DeadLetterId) -> Refusal {
    Refusal::NotFound(Missing::DeadLetter(org, id))
}
