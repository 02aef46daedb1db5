//! Decides how far one step of a replay goes, without touching the store.

use uuid::Uuid;

use super::Result;
use super::engine::Row;
use crate::domain::Cursor;

/// Dead letters that one step of a replay deals with at most: less than a tenth of a second of the
/// store's time.
pub const REPLAYS_PER_STEP: usize = 1_000;

/// A dead letter that a replay has come to.
pub(super) struct Candidate {
    position: Cursor,
    is_delivery: bool,
    /// Whether it passes the replay's filter and was not replayed before.
    wanted: bool,
}

impl Candidate {
    /// Reads `id`, `created_at`, `is_delivery` and `wanted`.
    pub(super) fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            position: Cursor { at: row.get("created_at")?, id: row.get("id")? },
            is_delivery: row.get("is_delivery")?,
            wanted: row.get("wanted")?,
        })
    }
}

/// The part of a replay that one step does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct ReplayChunk {
    /// The deliveries to repeat, whose dead letters have the same ids; or the dead letters to discard.
    pub(super) deliveries: Vec<Uuid>,
    /// The last dead letter that the step deals with; `None` when there is none.
    pub(super) reached: Option<Cursor>,
    /// The quarantined event that comes next.
    pub(super) stopped_at: Option<Cursor>,
    /// Whether nothing follows.
    pub(super) at_end: bool,
}

/// The chunk of one step, from the next dead letters in order. Fewer than [`REPLAYS_PER_STEP`] mean
/// that these are the last.
pub(super) fn chunk(candidates: &[Candidate]) -> ReplayChunk {
    let at_end = candidates.len() < REPLAYS_PER_STEP;
    let mut chunk = ReplayChunk { at_end, ..ReplayChunk::default() };
    for candidate in candidates {
        if candidate.wanted && !candidate.is_delivery {
            chunk.stopped_at = Some(candidate.position);
            chunk.at_end = false;
            break;
        }
        if candidate.wanted {
            chunk.deliveries.push(candidate.position.id);
        }
        chunk.reached = Some(candidate.position);
    }
    chunk
}

/// The chunk of one step that discards: quarantined events are dead letters like any other.
pub(super) fn chunk_to_discard(candidates: &[Candidate]) -> ReplayChunk {
    let wanted = candidates.iter().filter(|candidate| candidate.wanted);
    ReplayChunk {
        deliveries: wanted.map(|candidate| candidate.position.id).collect(),
        reached: candidates.last().map(|candidate| candidate.position),
        stopped_at: None,
        at_end: candidates.len() < REPLAYS_PER_STEP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn candidate(number: u128, is_delivery: bool, wanted: bool) -> Candidate {
        Candidate { position: position(number), is_delivery, wanted }
    }

    fn position(number: u128) -> Cursor {
        Cursor { at: Timestamp::from_micros(7), id: Uuid::from_u128(number) }
    }

    #[test]
    fn step_skips_what_the_filter_leaves_out_and_ends_with_the_last() {
        let candidates =
            [candidate(1, true, true), candidate(2, true, false), candidate(3, false, false)];
        let expected = ReplayChunk {
            deliveries: vec![Uuid::from_u128(1)],
            reached: Some(position(3)),
            stopped_at: None,
            at_end: true,
        };
        assert_eq!(chunk(&candidates), expected);
        assert_eq!(chunk(&[]), ReplayChunk { at_end: true, ..ReplayChunk::default() });
    }

    #[test]
    fn step_stops_before_a_quarantined_event() {
        let candidates =
            [candidate(1, true, true), candidate(2, false, true), candidate(3, true, true)];
        let expected = ReplayChunk {
            deliveries: vec![Uuid::from_u128(1)],
            reached: Some(position(1)),
            stopped_at: Some(position(2)),
            at_end: false,
        };
        assert_eq!(chunk(&candidates), expected);
    }

    #[test]
    fn discard_takes_quarantined_events_along() {
        let candidates =
            [candidate(1, true, true), candidate(2, false, true), candidate(3, true, false)];
        let expected = ReplayChunk {
            deliveries: vec![Uuid::from_u128(1), Uuid::from_u128(2)],
            reached: Some(position(3)),
            stopped_at: None,
            at_end: true,
        };
        assert_eq!(chunk_to_discard(&candidates), expected);
    }

    #[test]
    fn full_step_is_not_the_last() {
        let candidates: Vec<_> =
            (0..REPLAYS_PER_STEP as u128).map(|n| candidate(n, true, true)).collect();
        let chunk = chunk(&candidates);
        assert!(!chunk.at_end);
        assert_eq!(chunk.deliveries.len(), REPLAYS_PER_STEP);
    }
}
