//! Plans a claim: which endpoints it leases from, and how many deliveries each may get, so that the
//! backlog of one endpoint does not delay the others.
//!
//! A claim first reads the deliveries that are due longest, up to [`WINDOW`] of them. If those
//! are all that are due, they name every endpoint with something to claim. Otherwise some endpoint
//! has a backlog that may hide the others: then the claim scans from endpoint to endpoint, one index seek
//! each, however much waits behind it, and the next claim goes on where this one stopped.
//! Ordered endpoints, whose deliveries are claimed one by one, are always scanned.

use std::collections::HashMap;

use uuid::Uuid;

use super::{ClaimRequest, Claimed};
use crate::domain::{EndpointId, LeasedDelivery, Timestamp};
use crate::store::Result;

/// Due deliveries read first, at most.
pub(super) const WINDOW: usize = 1_024;
/// Endpoints that one claim scans at most.
pub(super) const SCAN_MAX: usize = 128;

/// How far claims have scanned the endpoints in this round; its default is the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClaimCursor {
    unordered: ScanPosition,
    ordered: ScanPosition,
    /// An endpoint of this round had more than it was given.
    has_backlog: bool,
}

/// How far a round has scanned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum ScanPosition {
    #[default]
    Start,
    /// After this endpoint.
    After(Uuid),
    /// Complete; it waits for the other kind's.
    Done,
}

/// An endpoint that a claim scanned.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScannedEndpoint {
    pub(super) endpoint: Uuid,
    /// Whether it has something to claim.
    pub(super) ready: bool,
}

/// How an engine finds endpoints with due deliveries.
pub(super) trait DueIndex: Sync {
    /// The endpoints of the [`WINDOW`] unordered deliveries that are due longest, the one due first
    /// ahead, each with how many of them are its own.
    fn due_longest(&self, now: Timestamp) -> impl Future<Output = Result<Vec<(Uuid, i64)>>> + Send;
    /// The [`SCAN_MAX`] endpoints after `after`, by id, that have pending deliveries.
    fn scan(
        &self,
        after: Uuid,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ScannedEndpoint>>> + Send;
    /// The same for ordered deliveries: an endpoint is ready when none is in flight and the oldest is due.
    fn scan_ordered(
        &self,
        after: Uuid,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ScannedEndpoint>>> + Send;
}

/// The deliveries that a claim is going to lease.
#[derive(Debug, Default)]
pub(super) struct ClaimPlan {
    /// Endpoints, and how many unordered deliveries each may get.
    pub(super) shares: Vec<(Uuid, usize)>,
    /// Endpoints whose oldest ordered delivery is to be leased.
    pub(super) heads: Vec<Uuid>,
    /// The share of every endpoint that has no cap.
    pub(super) each: usize,
    next: ClaimCursor,
}

impl ClaimRequest<'_> {
    /// Finds the endpoints to lease from.
    pub(super) async fn plan(&self, index: &impl DueIndex) -> Result<ClaimPlan> {
        let max = self.deliveries_max;
        if max == 0 {
            return Ok(ClaimPlan { next: self.from, ..ClaimPlan::default() });
        }
        let (heads, ordered) = match self.from.ordered.position() {
            None => (Vec::new(), ScanPosition::Done),
            // At most half for them: the others get a share of every claim, too.
            Some(after) => {
                let scanned = index.scan_ordered(after, self.now).await?;
                self.pick(&scanned, max.div_ceil(2))
            }
        };
        let left = max - heads.len();
        let (shares, unordered) = match self.from.unordered.position() {
            None => (Vec::new(), ScanPosition::Done),
            Some(after) => self.unordered(index, after, left).await?,
        };
        let each = left.div_ceil(shares.len().max(1));
        let shares = shares.into_iter().map(|id| (id, self.cap(id).min(each))).collect();
        Ok(ClaimPlan { shares, heads, each, next: ClaimCursor { unordered, ordered, ..self.from } })
    }

    async fn unordered(
        &self,
        index: &impl DueIndex,
        after: Uuid,
        max: usize,
    ) -> Result<(Vec<Uuid>, ScanPosition)> {
        let due = index.due_longest(self.now).await?;
        let seen: i64 = due.iter().map(|(_, count)| count).sum();
        if usize::try_from(seen).is_ok_and(|seen| seen >= WINDOW) {
            return Ok(self.pick(&index.scan(after, self.now).await?, max));
        }
        let mut open = due.into_iter().map(|(id, _)| id).filter(|id| self.takes(*id));
        let shares = open.by_ref().take(max).collect();
        // Endpoints that are left over come first next time.
        let next = if open.next().is_some() { ScanPosition::Start } else { ScanPosition::Done };
        Ok((shares, next))
    }

    /// The endpoints that are ready among `scanned`, at most `max`, and where that stopped.
    fn pick(&self, scanned: &[ScannedEndpoint], max: usize) -> (Vec<Uuid>, ScanPosition) {
        let mut picked = Vec::new();
        for endpoint in scanned {
            if endpoint.ready && self.takes(endpoint.endpoint) {
                picked.push(endpoint.endpoint);
            }
            if picked.len() >= max {
                return (picked, ScanPosition::After(endpoint.endpoint));
            }
        }
        let last = scanned.last().filter(|_| scanned.len() >= SCAN_MAX);
        (picked, last.map_or(ScanPosition::Done, |endpoint| ScanPosition::After(endpoint.endpoint)))
    }

    fn takes(&self, endpoint: Uuid) -> bool {
        self.cap(endpoint) > 0
    }

    fn cap(&self, endpoint: Uuid) -> usize {
        self.caps.get(&EndpointId::from_uuid(endpoint)).copied().unwrap_or(usize::MAX)
    }
}

impl ClaimPlan {
    /// Whether there is nothing to lease.
    pub(super) fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.heads.is_empty()
    }

    /// The result of the claim, given the leased deliveries.
    pub(super) fn claimed(self, leased: Vec<LeasedDelivery>) -> Claimed {
        let mut taken: HashMap<Uuid, usize> = HashMap::new();
        for delivery in leased.iter().filter(|delivery| !delivery.endpoint.policy.ordered) {
            *taken.entry(delivery.endpoint.id.uuid()).or_default() += 1;
        }
        let has_backlog = self.next.has_backlog || taken.values().any(|count| *count >= self.each);
        if self.next.is_complete() {
            return Claimed { leased, next: ClaimCursor::default(), more: has_backlog };
        }
        Claimed { leased, next: ClaimCursor { has_backlog, ..self.next }, more: true }
    }
}

impl ClaimCursor {
    fn is_complete(&self) -> bool {
        (self.unordered, self.ordered) == (ScanPosition::Done, ScanPosition::Done)
    }
}

impl ScanPosition {
    /// The id to go on after, while there is anything left.
    const fn position(self) -> Option<Uuid> {
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
    use crate::domain::{InstanceId, Lease, LeaseToken};

    const NOW: Timestamp = Timestamp::from_micros(1);

    /// Endpoints by number; `due` tells how many are due for each.
    struct FakeIndex {
        due: Vec<usize>,
        ordered: Vec<bool>,
        scanned_count: Mutex<usize>,
    }

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128 + 1)
    }

    impl FakeIndex {
        fn new(due: Vec<usize>) -> Self {
            Self { due, ordered: Vec::new(), scanned_count: Mutex::new(0) }
        }

        fn scanned(
            &self,
            after: Uuid,
            ready: impl Fn(usize) -> Option<bool>,
        ) -> Vec<ScannedEndpoint> {
            let all = (0..self.due.len()).filter(|n| id(*n) > after);
            let scanned: Vec<ScannedEndpoint> = all
                .filter_map(|n| ready(n).map(|ready| ScannedEndpoint { endpoint: id(n), ready }))
                .take(SCAN_MAX)
                .collect();
            *self.scanned_count.lock().unwrap() += scanned.len();
            scanned
        }
    }

    impl DueIndex for FakeIndex {
        async fn due_longest(&self, _: Timestamp) -> Result<Vec<(Uuid, i64)>> {
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

        async fn scan(&self, after: Uuid, _: Timestamp) -> Result<Vec<ScannedEndpoint>> {
            Ok(self.scanned(after, |n| Some(self.due[n] > 0)))
        }

        async fn scan_ordered(&self, after: Uuid, _: Timestamp) -> Result<Vec<ScannedEndpoint>> {
            Ok(self.scanned(after, |n| self.ordered.get(n).copied().filter(|ordered| *ordered)))
        }
    }

    async fn plan(
        index: &FakeIndex,
        max: usize,
        caps: &[(usize, usize)],
        from: ClaimCursor,
    ) -> ClaimPlan {
        let lease = Lease {
            token: LeaseToken::mint(InstanceId::new(1)),
            until: NOW.plus(Duration::from_mins(1)),
        };
        let caps = caps.iter().map(|(n, cap)| (EndpointId::from_uuid(id(*n)), *cap)).collect();
        let request = ClaimRequest { lease, deliveries_max: max, caps: &caps, from, now: NOW };
        request.plan(index).await.unwrap()
    }

    #[tokio::test]
    async fn without_a_backlog_every_endpoint_with_something_due_shares_the_claim() {
        let index = FakeIndex::new(vec![3, 0, 5]);
        let found = plan(&index, 8, &[], ClaimCursor::default()).await;
        assert_eq!(found.shares, [(id(0), 4), (id(2), 4)]);
        assert!(found.next.is_complete());
        assert_eq!(*index.scanned_count.lock().unwrap(), 0, "no steps");
        let capped = plan(&index, 8, &[(0, 0), (2, 1)], ClaimCursor::default()).await;
        assert_eq!(capped.shares, [(id(2), 1)]);
    }

    #[tokio::test]
    async fn backlog_that_hides_the_others_is_skipped_and_every_endpoint_gets_its_share() {
        let mut due = vec![1; 500];
        due[0] = 1_000_000;
        let index = FakeIndex::new(due);
        let (mut from, mut served) = (ClaimCursor::default(), Vec::new());
        loop {
            let found = plan(&index, 100, &[(0, 0)], from).await;
            served.extend(found.shares.iter().map(|(endpoint, _)| *endpoint));
            from = found.next;
            if found.next.is_complete() {
                break;
            }
        }
        assert_eq!(served, (1..500).map(id).collect::<Vec<_>>());
        assert!(*index.scanned_count.lock().unwrap() <= 6 * SCAN_MAX);
    }

    #[tokio::test]
    async fn round_without_anything_ready_ends() {
        let mut due = vec![0; 300];
        due[0] = 1_000_000;
        let index = FakeIndex::new(due);
        let mut from = ClaimCursor::default();
        for complete in [false, false, true] {
            let found = plan(&index, 100, &[(0, 0)], from).await;
            assert_eq!((found.shares.len(), found.next.is_complete()), (0, complete));
            from = found.next;
        }
    }

    #[tokio::test]
    async fn ordered_endpoints_take_at_most_half_of_a_claim_and_go_on_where_they_stopped() {
        let mut index = FakeIndex::new(vec![0; 10]);
        index.ordered = vec![true; 9];
        index.due[9] = 10;
        let first = plan(&index, 8, &[], ClaimCursor::default()).await;
        assert_eq!(first.heads, (0..4).map(id).collect::<Vec<_>>());
        assert_eq!(first.shares, [(id(9), 4)]);
        let second = plan(&index, 8, &[(5, 0)], first.next).await;
        assert_eq!(second.heads, [4, 6, 7, 8].map(id));
    }

    #[tokio::test]
    async fn claim_of_nothing_scans_nothing() {
        assert!(plan(&FakeIndex::new(vec![1]), 0, &[], ClaimCursor::default()).await.is_empty());
    }
}
