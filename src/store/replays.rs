//! Replays: new deliveries that repeat old ones. They are due at once, start with no attempts, and
//! name the delivery they repeat. A dead letter of what was repeated is marked as replayed.

use super::{DeliveryRefusal, Store, StoreError, on_engine};
use crate::domain::{
    Actor, Cursor, DeadLetterFilter, Delivery, DeliveryId, EndpointId, EventId, OrgId, Page,
    PageRequest, Replay, ReplayId, Timestamp,
};

/// An event that is delivered once more.
#[derive(Clone, Debug)]
pub struct ReplayedEvent {
    /// The new deliveries.
    pub deliveries: Vec<Delivery>,
    /// Endpoints that get none: disabled, removed, or beyond the [`REPLAYS_PER_STEP`]th.
    pub skipped: usize,
}

/// What a step of a replay did.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    /// New deliveries.
    pub planned: usize,
    /// Where it stopped: an event that was refused before, which the caller tries to store again and
    /// then passes by.
    pub stopped_at: Option<QuarantinedEvent>,
}

/// An event that the store refused, in the way of a replay.
#[derive(Clone, Debug)]
pub struct QuarantinedEvent {
    /// The replay.
    pub replay: ReplayId,
    /// Its dead letter's place in the order of the replay.
    pub place: Cursor,
    /// The event in the journal's form.
    pub record: Vec<u8>,
}

/// Dead letters that one step of a replay deals with at most: less than a tenth of a second of a
/// store.
pub const REPLAYS_PER_STEP: usize = 1_000;

/// Dead letters counted for the total of a replay at most: beyond, nobody waits for a number.
pub(super) const COUNTED_MAX: i64 = 100_000;

impl Store {
    /// Repeats one delivery, whatever became of it.
    pub async fn replay_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        on_engine!(self, replay_delivery(org, id, by, now))
    }

    /// Delivers an event once more: to every endpoint that it was planned for, or to `endpoint`
    /// alone, whether it was planned for that or not. Endpoints that are disabled or removed are
    /// passed over and counted, unless `endpoint` is one, which is refused.
    pub async fn replay_event(
        &self,
        org: OrgId,
        id: EventId,
        endpoint: Option<EndpointId>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<ReplayedEvent, DeliveryRefusal>, StoreError> {
        on_engine!(self, replay_event(org, id, endpoint, by, now))
    }

    /// Adds a replay of the dead letters that pass the filter, were given up by `now` and are not
    /// replayed yet. Steps do the work. `filter.replayed` is not looked at. `None` when there is no
    /// such organisation, or it is being deleted.
    pub async fn insert_replay(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>, StoreError> {
        on_engine!(self, insert_replay(org, filter, by, now))
    }

    /// One replay.
    pub async fn replay(&self, org: OrgId, id: ReplayId) -> Result<Option<Replay>, StoreError> {
        on_engine!(self, replay(org, id))
    }

    /// The organisation's replays.
    pub async fn replays(&self, org: OrgId, page: PageRequest) -> Result<Page<Replay>, StoreError> {
        on_engine!(self, replays(org, page))
    }

    /// Ends a running replay and returns it as it is now; one that is over stays as it is.
    /// `failure` says why it failed; without it, it was cancelled.
    pub async fn end_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        failure: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>, StoreError> {
        on_engine!(self, end_replay(org, id, failure, by, now))
    }

    /// The running replay whose last step is the longest ago.
    pub async fn next_replay_across_orgs(&self) -> Result<Option<(OrgId, ReplayId)>, StoreError> {
        on_engine!(self, next_replay_across_orgs())
    }

    /// Deals with the next dead letters of a running replay, at most [`REPLAYS_PER_STEP`], in the
    /// order they were given up. Whoever does it, however often the process dies, each is dealt with
    /// once. `None` when the replay is not running, or somebody else does a step of it right now.
    pub async fn step_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        now: Timestamp,
    ) -> Result<Option<ReplayStep>, StoreError> {
        on_engine!(self, step_replay(org, id, now))
    }

    /// Goes past a dead letter that a step stopped at, which is deleted when its event is `stored`
    /// and skipped when it is not. Doing it again changes nothing.
    pub async fn pass_quarantined_event(
        &self,
        org: OrgId,
        buried: &QuarantinedEvent,
        stored: bool,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on_engine!(self, pass_quarantined_event(org, buried, stored, now))
    }
}
