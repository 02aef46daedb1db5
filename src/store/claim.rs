//! Decides which endpoints a claim turns to, and how many deliveries each may get, so that what
//! waits for one of them slows nobody's claim.
//!
//! A claim first looks at the deliveries that are due longest, up to [`WINDOW`] of them. Where that
//! is all that is due, it names every endpoint with something to claim. Where it is not, somebody
//! has a backlog that may hide the others: then the claim steps from endpoint to endpoint, one seek
//! of an index each, whatever waits behind it, and the next claim goes on where this one stopped.
//! Ordered endpoints, whose deliveries are claimed one by one, are stepped through always.

use std::collections::HashMap;

use uuid::Uuid;

use crate::domain::{EndpointId, Lease, LeasedDelivery, Timestamp};

use super::{Store, StoreError, on_engine, timed};
use crate::store::metrics::DbOperation;

impl Store {
    /// Leases deliveries that are due, shared out among the endpoints that have any; each gives
    /// those that are due longest first. Two callers never hold one delivery. Of ordered
    /// deliveries to one endpoint only the oldest is leased, and only while no other one is.
    pub async fn claim_deliveries_across_orgs(
        &self,
        request: ClaimRequest<'_>,
    ) -> Result<Claimed, StoreError> {
        let claiming = async { on_engine!(self, claim(request)) };
        timed(&self.metrics, DbOperation::ClaimDeliveries, claiming).await
    }
}

/// Due deliveries that the first look takes in at most.
pub(super) const WINDOW: usize = 1_024;
/// Endpoints that one claim steps to at most.
pub(super) const STEPS_MAX: usize = 128;

/// What to claim.
#[derive(Clone, Debug)]
pub struct ClaimRequest<'a> {
    /// The lease to hold them under.
    pub lease: Lease,
    /// How many at most.
    pub deliveries_max: usize,
    /// Endpoints that take so many at most; 0 leaves one out.
    pub caps: &'a HashMap<EndpointId, usize>,
    /// Where the last claim stopped.
    pub from: ClaimCursor,
    /// The moment it is.
    pub now: Timestamp,
}

/// How far claims have gone round the endpoints; its default is the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClaimCursor {
    unordered: Walk,
    ordered: Walk,
    /// Somebody on this round had more than it was given.
    again: bool,
}

/// How far a round has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Walk {
    #[default]
    Start,
    /// After this endpoint.
    After(Uuid),
    /// Complete; it waits for the other kind's.
    Done,
}

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The deliveries, the longest due first. The caller holds their lease.
    pub leased: Vec<LeasedDelivery>,
    /// Where the next claim goes on.
    pub next: ClaimCursor,
    /// Whether there may be more: the round was not completed, or somebody had more than its share.
    pub more: bool,
}

/// An endpoint that a claim stepped to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) endpoint: Uuid,
    /// Whether it has something to claim.
    pub(super) ready: bool,
}

/// How a backend finds endpoints.
pub(super) trait Lookout: Sync {
    /// The endpoints of the [`WINDOW`] unordered deliveries that are due longest, the one due first
    /// ahead, each with how many of them are its own.
    fn due_longest(
        &self,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<(Uuid, i64)>, StoreError>> + Send;
    /// The [`STEPS_MAX`] endpoints after `after`, by id, that have pending deliveries.
    fn steps(
        &self,
        after: Uuid,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Stop>, StoreError>> + Send;
    /// The same for ordered deliveries: ready is who has none in flight, and the oldest due.
    fn ordered_steps(
        &self,
        after: Uuid,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Stop>, StoreError>> + Send;
}

/// What a claim is going to lease.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Endpoints, and how many unordered deliveries each may get.
    pub(super) turns: Vec<(Uuid, usize)>,
    /// Endpoints whose oldest ordered delivery is to be leased.
    pub(super) heads: Vec<Uuid>,
    /// What every endpoint gets that has no cap.
    pub(super) each: usize,
    next: ClaimCursor,
}

impl ClaimRequest<'_> {
    /// Finds out whose turn it is.
    pub(super) async fn plan(&self, lookout: &impl Lookout) -> Result<Plan, StoreError> {
        let room = self.deliveries_max;
        if room == 0 {
            return Ok(Plan { next: self.from, ..Plan::default() });
        }
        let (heads, ordered) = match self.from.ordered.place() {
            None => (Vec::new(), Walk::Done),
            // Half for them at most: the others have a turn in every claim, too.
            Some(after) => {
                let stops = lookout.ordered_steps(after, self.now).await?;
                self.pick(&stops, room.div_ceil(2))
            }
        };
        let left = room - heads.len();
        let (turns, unordered) = match self.from.unordered.place() {
            None => (Vec::new(), Walk::Done),
            Some(after) => self.unordered(lookout, after, left).await?,
        };
        let each = left.div_ceil(turns.len().max(1));
        let turns = turns.into_iter().map(|id| (id, self.cap(id).min(each))).collect();
        Ok(Plan { turns, heads, each, next: ClaimCursor { unordered, ordered, ..self.from } })
    }

    async fn unordered(
        &self,
        lookout: &impl Lookout,
        after: Uuid,
        most: usize,
    ) -> Result<(Vec<Uuid>, Walk), StoreError> {
        let due = lookout.due_longest(self.now).await?;
        let seen: i64 = due.iter().map(|(_, count)| count).sum();
        if usize::try_from(seen).is_ok_and(|seen| seen >= WINDOW) {
            return Ok(self.pick(&lookout.steps(after, self.now).await?, most));
        }
        let mut open = due.into_iter().map(|(id, _)| id).filter(|id| self.takes(*id));
        let turns = open.by_ref().take(most).collect();
        // Those that are left over are the first next time.
        let next = if open.next().is_some() { Walk::Start } else { Walk::Done };
        Ok((turns, next))
    }

    /// The endpoints that are ready among `stops`, at most `most`, and where that stopped.
    fn pick(&self, stops: &[Stop], most: usize) -> (Vec<Uuid>, Walk) {
        let mut picked = Vec::new();
        for stop in stops {
            if stop.ready && self.takes(stop.endpoint) {
                picked.push(stop.endpoint);
            }
            if picked.len() >= most {
                return (picked, Walk::After(stop.endpoint));
            }
        }
        let last = stops.last().filter(|_| stops.len() >= STEPS_MAX);
        (picked, last.map_or(Walk::Done, |stop| Walk::After(stop.endpoint)))
    }

    fn takes(&self, endpoint: Uuid) -> bool {
        self.cap(endpoint) > 0
    }

    fn cap(&self, endpoint: Uuid) -> usize {
        self.caps.get(&EndpointId::from_uuid(endpoint)).copied().unwrap_or(usize::MAX)
    }
}

impl Plan {
    /// Whether there is nothing to lease.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.heads.is_empty()
    }

    /// What the claim answers, given what was leased.
    pub(super) fn claimed(self, leased: Vec<LeasedDelivery>) -> Claimed {
        let mut taken: HashMap<Uuid, usize> = HashMap::new();
        for delivery in leased.iter().filter(|delivery| !delivery.endpoint.policy.ordered) {
            *taken.entry(delivery.endpoint.id.uuid()).or_default() += 1;
        }
        let again = self.next.again || taken.values().any(|count| *count >= self.each);
        if self.next.is_complete() {
            return Claimed { leased, next: ClaimCursor::default(), more: again };
        }
        Claimed { leased, next: ClaimCursor { again, ..self.next }, more: true }
    }
}

impl ClaimCursor {
    fn is_complete(&self) -> bool {
        (self.unordered, self.ordered) == (Walk::Done, Walk::Done)
    }
}

impl Walk {
    /// The id to go on after, while there is anything left.
    const fn place(self) -> Option<Uuid> {
        match self {
            // Before every endpoint: no id is nil.
            Self::Start => Some(Uuid::nil()),
            Self::After(endpoint) => Some(endpoint),
            Self::Done => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::domain::{InstanceId, LeaseToken};

    const NOW: Timestamp = Timestamp::from_micros(1);

    /// Endpoints by number; `due` tells how many are due for each.
    struct Sea {
        due: Vec<usize>,
        ordered: Vec<bool>,
        visited: Mutex<usize>,
    }

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128 + 1)
    }

    impl Sea {
        fn new(due: Vec<usize>) -> Self {
            Self { due, ordered: Vec::new(), visited: Mutex::new(0) }
        }

        fn stops(&self, after: Uuid, ready: impl Fn(usize) -> Option<bool>) -> Vec<Stop> {
            let all = (0..self.due.len()).filter(|n| id(*n) > after);
            let stops: Vec<Stop> = all
                .filter_map(|n| ready(n).map(|ready| Stop { endpoint: id(n), ready }))
                .take(STEPS_MAX)
                .collect();
            *self.visited.lock().unwrap() += stops.len();
            stops
        }
    }

    impl Lookout for Sea {
        async fn due_longest(&self, _: Timestamp) -> Result<Vec<(Uuid, i64)>, StoreError> {
            let mut left = WINDOW;
            let mut due = Vec::new();
            for (number, count) in self.due.iter().enumerate().filter(|(_, count)| **count > 0) {
                let seen = left.min(*count);
                left -= seen;
                if seen > 0 {
                    due.push((id(number), i64::try_from(seen).unwrap()));
                }
            }
            Ok(due)
        }

        async fn steps(&self, after: Uuid, _: Timestamp) -> Result<Vec<Stop>, StoreError> {
            Ok(self.stops(after, |n| Some(self.due[n] > 0)))
        }

        async fn ordered_steps(&self, after: Uuid, _: Timestamp) -> Result<Vec<Stop>, StoreError> {
            Ok(self.stops(after, |n| self.ordered.get(n).copied().filter(|ordered| *ordered)))
        }
    }

    async fn plan(sea: &Sea, room: usize, caps: &[(usize, usize)], from: ClaimCursor) -> Plan {
        let lease = Lease {
            token: LeaseToken::mint(InstanceId::new(1)),
            until: NOW.plus(Duration::from_mins(1)),
        };
        let caps = caps.iter().map(|(n, cap)| (EndpointId::from_uuid(id(*n)), *cap)).collect();
        let request = ClaimRequest { lease, deliveries_max: room, caps: &caps, from, now: NOW };
        request.plan(sea).await.unwrap()
    }

    #[tokio::test]
    async fn without_a_backlog_everybody_with_something_due_shares_the_room() {
        let sea = Sea::new(vec![3, 0, 5]);
        let found = plan(&sea, 8, &[], ClaimCursor::default()).await;
        assert_eq!(found.turns, [(id(0), 4), (id(2), 4)]);
        assert!(found.next.is_complete());
        assert_eq!(*sea.visited.lock().unwrap(), 0, "no steps");
        let capped = plan(&sea, 8, &[(0, 0), (2, 1)], ClaimCursor::default()).await;
        assert_eq!(capped.turns, [(id(2), 1)]);
    }

    #[tokio::test]
    async fn backlog_that_hides_the_others_is_stepped_over_and_every_one_gets_its_turn() {
        let mut due = vec![1; 500];
        due[0] = 1_000_000;
        let sea = Sea::new(due);
        let (mut from, mut turned) = (ClaimCursor::default(), Vec::new());
        loop {
            let found = plan(&sea, 100, &[(0, 0)], from).await;
            turned.extend(found.turns.iter().map(|(endpoint, _)| *endpoint));
            from = found.next;
            if found.next.is_complete() {
                break;
            }
        }
        assert_eq!(turned, (1..500).map(id).collect::<Vec<_>>());
        assert!(*sea.visited.lock().unwrap() <= 6 * STEPS_MAX);
    }

    #[tokio::test]
    async fn round_without_anything_ready_ends() {
        let mut due = vec![0; 300];
        due[0] = 1_000_000;
        let sea = Sea::new(due);
        let mut from = ClaimCursor::default();
        for complete in [false, false, true] {
            let found = plan(&sea, 100, &[(0, 0)], from).await;
            assert_eq!((found.turns.len(), found.next.is_complete()), (0, complete));
            from = found.next;
        }
    }

    #[tokio::test]
    async fn ordered_endpoints_take_half_of_the_room_at_the_most_and_go_on_where_they_stopped() {
        let mut sea = Sea::new(vec![0; 10]);
        sea.ordered = vec![true; 9];
        sea.due[9] = 10;
        let first = plan(&sea, 8, &[], ClaimCursor::default()).await;
        assert_eq!(first.heads, (0..4).map(id).collect::<Vec<_>>());
        assert_eq!(first.turns, [(id(9), 4)]);
        let second = plan(&sea, 8, &[(5, 0)], first.next).await;
        assert_eq!(second.heads, [4, 6, 7, 8].map(id));
    }

    #[tokio::test]
    async fn claim_without_room_asks_nobody() {
        assert!(plan(&Sea::new(vec![1]), 0, &[], ClaimCursor::default()).await.is_empty());
    }
}
