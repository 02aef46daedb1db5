//! Decides, without touching the store, how far a step of a replay goes and what it plans. Both
//! backends then write what is decided here.

use std::time::Duration;

use uuid::Uuid;

use crate::domain::{
    Cursor, DeadLetterFilter, Delivery, DeliveryId, DeliveryStatus, EndpointId, EventId, OrgId,
    ReplayStatus, Timestamp,
};

use super::rows::Columns;
use super::{DeliveryRefusal, REPLAYS_PER_STEP, StoreError};

/// Before when a dead letter must have been given up for a replay that is made at `now`: what comes
/// later is not for it, so that it ends.
pub(super) fn until(filter: &DeadLetterFilter, now: Timestamp) -> Timestamp {
    let after_now = now.plus(Duration::from_micros(1));
    filter.until.map_or(after_now, |until| until.min(after_now))
}

/// How a replay ends before its end.
pub(super) const fn end(failure: Option<&str>) -> ReplayStatus {
    match failure {
        Some(_) => ReplayStatus::Failed,
        None => ReplayStatus::Cancelled,
    }
}

/// A dead letter that a replay has come to.
pub(super) struct Letter {
    place: Cursor,
    is_delivery: bool,
    /// Whether the replay is for it.
    wanted: bool,
}

impl Letter {
    /// Reads `id, created_at, delivery_id, wanted`, the last as 0 or 1.
    pub(super) fn read(row: &impl Columns) -> Result<Self, StoreError> {
        Ok(Self {
            place: Cursor { at: row.moment(1)?, id: row.uuid(0)? },
            is_delivery: row.uuid_opt(2)?.is_some(),
            wanted: row.number(3)? != 0,
        })
    }
}

/// How far a step goes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Stretch {
    /// The deliveries to repeat, which are the ids of their dead letters too.
    pub(super) deliveries: Vec<Uuid>,
    /// The last dead letter that was dealt with; `None` when there was none.
    pub(super) reached: Option<Cursor>,
    /// The refused event that comes next.
    pub(super) stopped_at: Option<Cursor>,
    /// Whether there is nothing after it.
    pub(super) at_end: bool,
}

/// The stretch of one step, of the next dead letters in order, of which there are fewer than
/// [`REPLAYS_PER_STEP`] only at the end.
pub(super) fn stretch(letters: &[Letter]) -> Stretch {
    let mut stretch = Stretch { at_end: letters.len() < REPLAYS_PER_STEP, ..Stretch::default() };
    for letter in letters {
        if letter.wanted && !letter.is_delivery {
            stretch.stopped_at = Some(letter.place);
            stretch.at_end = false;
            break;
        }
        if letter.wanted {
            stretch.deliveries.push(letter.place.id);
        }
        stretch.reached = Some(letter.place);
    }
    stretch
}

/// A new delivery that repeats an old one.
pub(super) struct Twin {
    pub(super) id: DeliveryId,
    pub(super) event_id: Uuid,
    pub(super) event_received_at: Timestamp,
    pub(super) endpoint_id: Uuid,
    /// `None` for an endpoint that the event was not planned for.
    pub(super) replay_of: Option<Uuid>,
}

impl Twin {
    /// The new delivery as it is stored.
    pub(super) fn delivery(&self, org: OrgId, now: Timestamp) -> Delivery {
        Delivery {
            id: self.id,
            org_id: org,
            event_id: EventId::from_uuid(self.event_id),
            endpoint_id: EndpointId::from_uuid(self.endpoint_id),
            status: DeliveryStatus::Pending,
            attempts: 0,
            next_attempt_at: Some(now),
            created_at: now,
            finished_at: None,
            replay_of: self.replay_of.map(DeliveryId::from_uuid),
        }
    }
}

/// Reads `id, event_id, event_received_at, endpoint_id` of the deliveries to repeat. The new ids
/// sort as the rows came.
pub(super) fn twins(found: &[impl Columns], now: Timestamp) -> Result<Vec<Twin>, StoreError> {
    let mut ids: Vec<DeliveryId> = found.iter().map(|_| DeliveryId::mint(now)).collect();
    ids.sort_unstable();
    found.iter().zip(ids).map(|(row, id)| twin(row, id)).collect()
}

fn twin(row: &impl Columns, id: DeliveryId) -> Result<Twin, StoreError> {
    Ok(Twin {
        id,
        event_id: row.uuid(1)?,
        event_received_at: row.moment(2)?,
        endpoint_id: row.uuid(3)?,
        replay_of: Some(row.uuid(0)?),
    })
}

/// Why nothing is sent to an endpoint, from its `id, disabled_reason` starting at `at`, NULL when it
/// is gone.
pub(super) fn endpoint_refusal(
    row: &impl Columns,
    at: usize,
) -> Result<Option<DeliveryRefusal>, StoreError> {
    if row.uuid_opt(at)?.is_none() {
        return Ok(Some(DeliveryRefusal::EndpointRemoved));
    }
    let disabled = row.text_opt(at + 1)?.is_some();
    Ok(disabled.then_some(DeliveryRefusal::EndpointDisabled))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: u128, is_delivery: bool, wanted: bool) -> Letter {
        Letter { place: place(number), is_delivery, wanted }
    }

    fn place(number: u128) -> Cursor {
        Cursor { at: Timestamp::from_micros(7), id: Uuid::from_u128(number) }
    }

    #[test]
    fn step_passes_by_what_it_is_not_for_and_ends_with_the_last() {
        let letters = [letter(1, true, true), letter(2, true, false), letter(3, false, false)];
        let expected = Stretch {
            deliveries: vec![Uuid::from_u128(1)],
            reached: Some(place(3)),
            stopped_at: None,
            at_end: true,
        };
        assert_eq!(stretch(&letters), expected);
        assert_eq!(stretch(&[]), Stretch { at_end: true, ..Stretch::default() });
    }

    #[test]
    fn step_stops_before_an_event_that_was_refused() {
        let letters = [letter(1, true, true), letter(2, false, true), letter(3, true, true)];
        let expected = Stretch {
            deliveries: vec![Uuid::from_u128(1)],
            reached: Some(place(1)),
            stopped_at: Some(place(2)),
            at_end: false,
        };
        assert_eq!(stretch(&letters), expected);
    }

    #[test]
    fn full_step_is_not_the_last() {
        let letters: Vec<_> =
            (0..REPLAYS_PER_STEP as u128).map(|n| letter(n, true, true)).collect();
        let stretch = stretch(&letters);
        assert!(!stretch.at_end);
        assert_eq!(stretch.deliveries.len(), REPLAYS_PER_STEP);
    }
}
