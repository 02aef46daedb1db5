//! Finds the endpoints with due deliveries, so that the backlog of one endpoint does not hide the others.
//!
//! First come the deliveries that are due longest, up to [`WINDOW`] of them. If those
//! are all that are due, they name every endpoint with something to claim. Otherwise some endpoint
//! has a backlog that may hide the others: then a look scans from endpoint to endpoint, one index seek
//! each, however much waits behind it, and the next look goes on where this one stopped.
//! Ordered endpoints, whose deliveries are claimed one by one, are always scanned.

use std::collections::HashSet;

use uuid::Uuid;

use crate::domain::{EndpointId, OrgId, Timestamp};
use crate::store::Result;

/// Due deliveries read first, at most.
pub(super) const WINDOW: usize = 1_024;
/// Endpoints of each kind that one look scans at most.
pub(super) const SCAN_MAX: usize = 128;

/// How far the endpoints have been scanned in this round; its default is the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClaimCursor {
    unordered: ScanPosition,
    ordered: ScanPosition,
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

/// An endpoint with deliveries that may be leased.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DueEndpoint {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its organisation.
    pub org: OrgId,
    /// Whether this is about the oldest of its ordered deliveries, instead of about those in any order.
    pub ordered: bool,
}

/// Endpoints with deliveries that may be leased.
#[derive(Clone, Debug, Default)]
pub struct DueEndpoints {
    /// The endpoints, each at most once of a kind.
    pub endpoints: Vec<DueEndpoint>,
    /// Where the next look goes on.
    pub next: ClaimCursor,
    /// Whether the round goes on: there may be other endpoints.
    pub more: bool,
}

/// The deliveries that are due longest.
#[derive(Debug)]
pub(super) struct DueWindow {
    /// Their endpoints, the one due first ahead.
    pub(super) endpoints: Vec<DueEndpoint>,
    /// Whether more deliveries may be due.
    pub(super) full: bool,
}

/// An endpoint that a look scanned.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScannedEndpoint {
    pub(super) endpoint: Uuid,
    /// What may be leased of it, if anything.
    pub(super) due: Option<DueEndpoint>,
}

/// How an engine finds endpoints with due deliveries. Endpoints that nothing is sent to have none.
pub(super) trait DueIndex: Sync {
    /// The [`WINDOW`] unordered deliveries that are due longest.
    fn due_longest(&self, now: Timestamp) -> impl Future<Output = Result<DueWindow>> + Send;
    /// The [`SCAN_MAX`] endpoints after `after`, by id, that have unleased deliveries.
    fn scan(
        &self,
        after: Uuid,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ScannedEndpoint>>> + Send;
    /// The same for ordered deliveries: they may be leased when none is in flight and the oldest is due, or, where
    /// the endpoint is no longer ordered, like unordered ones.
    fn scan_ordered(
        &self,
        after: Uuid,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<ScannedEndpoint>>> + Send;
}

/// Looks for endpoints with due deliveries, from where the last look of the round stopped.
pub(super) async fn find(
    index: &impl DueIndex,
    from: ClaimCursor,
    now: Timestamp,
) -> Result<DueEndpoints> {
    let (mut endpoints, ordered) = match from.ordered.position() {
        None => (Vec::new(), ScanPosition::Done),
        Some(after) => scanned(&index.scan_ordered(after, now).await?),
    };
    let (due, unordered) = match from.unordered.position() {
        None => (Vec::new(), ScanPosition::Done),
        Some(after) => {
            let window = index.due_longest(now).await?;
            if window.full {
                scanned(&index.scan(after, now).await?)
            } else {
                (window.endpoints, ScanPosition::Done)
            }
        }
    };
    endpoints.extend(due);
    // An endpoint that is no longer ordered is found by its ordered deliveries and by the others.
    let mut seen = HashSet::new();
    endpoints.retain(|due| seen.insert(*due));
    let next = ClaimCursor { unordered, ordered };
    let more = !next.is_complete();
    let next = if more { next } else { ClaimCursor::default() };
    Ok(DueEndpoints { endpoints, next, more })
}

/// [`find`] without a look at deliveries, which fails where one cannot be read: whatever endpoint there is may have something
/// due. `enabled` tells the next [`SCAN_MAX`] of them.
pub(super) async fn find_any<F>(
    enabled: impl FnOnce(Uuid) -> F,
    from: ClaimCursor,
) -> Result<DueEndpoints>
where
    F: Future<Output = Result<Vec<DueEndpoint>>>,
{
    let found = enabled(from.unordered.position().unwrap_or_default()).await?;
    let last = found.last().filter(|_| found.len() >= SCAN_MAX);
    let next = last.map_or_else(ClaimCursor::default, |last| ClaimCursor {
        unordered: ScanPosition::After(last.endpoint.uuid()),
        ordered: ScanPosition::Done,
    });
    let unordered = found.iter().map(|due| DueEndpoint { ordered: false, ..*due });
    // The oldest of an endpoint's ordered deliveries, and what was planned before it was ordered.
    let ordered = found.iter().filter(|due| due.ordered).copied();
    let more = last.is_some();
    Ok(DueEndpoints { endpoints: ordered.chain(unordered).collect(), next, more })
}

/// The endpoints with something due among those that were scanned, and where that stopped.
fn scanned(scanned: &[ScannedEndpoint]) -> (Vec<DueEndpoint>, ScanPosition) {
    let due = scanned.iter().filter_map(|endpoint| endpoint.due).collect();
    let last = scanned.last().filter(|_| scanned.len() >= SCAN_MAX);
    (due, last.map_or(ScanPosition::Done, |endpoint| ScanPosition::After(endpoint.endpoint)))
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

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1);

    /// Endpoints by number; `due` tells how many are due for each.
    struct FakeIndex {
        due: Vec<usize>,
        ordered: Vec<Option<bool>>,
        scanned_count: Mutex<usize>,
    }

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128 + 1)
    }

    fn due(number: usize, ordered: bool) -> DueEndpoint {
        let endpoint = EndpointId::from_uuid(id(number));
        DueEndpoint { endpoint, org: OrgId::FIRST, ordered }
    }

    fn numbers(found: &DueEndpoints) -> Vec<usize> {
        let number =
            |due: &DueEndpoint| usize::try_from(due.endpoint.uuid().as_u128()).unwrap() - 1;
        found.endpoints.iter().map(number).collect()
    }

    impl FakeIndex {
        fn new(due: Vec<usize>) -> Self {
            Self { due, ordered: Vec::new(), scanned_count: Mutex::new(0) }
        }

        fn scanned(
            &self,
            after: Uuid,
            what: impl Fn(usize) -> Option<Option<DueEndpoint>>,
        ) -> Vec<ScannedEndpoint> {
            let all = (0..self.due.len()).filter(|n| id(*n) > after);
            let scanned: Vec<ScannedEndpoint> = all
                .filter_map(|n| what(n).map(|due| ScannedEndpoint { endpoint: id(n), due }))
                .take(SCAN_MAX)
                .collect();
            *self.scanned_count.lock().unwrap() += scanned.len();
            scanned
        }
    }

    impl DueIndex for FakeIndex {
        async fn due_longest(&self, _: Timestamp) -> Result<DueWindow> {
            let mut left = WINDOW;
            let mut endpoints = Vec::new();
            for (number, count) in self.due.iter().enumerate().filter(|(_, count)| **count > 0) {
                if left > 0 {
                    endpoints.push(due(number, false));
                }
                left = left.saturating_sub(*count);
            }
            Ok(DueWindow { endpoints, full: left == 0 })
        }

        async fn scan(&self, after: Uuid, _: Timestamp) -> Result<Vec<ScannedEndpoint>> {
            Ok(self.scanned(after, |n| Some((self.due[n] > 0).then(|| due(n, false)))))
        }

        async fn scan_ordered(&self, after: Uuid, _: Timestamp) -> Result<Vec<ScannedEndpoint>> {
            let what = |n: usize| self.ordered.get(n).copied().flatten();
            Ok(self.scanned(after, |n| what(n).map(|ordered| Some(due(n, ordered)))))
        }
    }

    #[tokio::test]
    async fn without_a_backlog_every_endpoint_with_something_due_is_found_at_once() {
        let index = FakeIndex::new(vec![3, 0, 5]);
        let found = find(&index, ClaimCursor::default(), NOW).await.unwrap();
        assert_eq!((numbers(&found), found.more), (vec![0, 2], false));
        assert_eq!(*index.scanned_count.lock().unwrap(), 0, "no steps");
    }

    #[tokio::test]
    async fn backlog_that_hides_the_others_is_skipped_and_a_round_finds_every_endpoint() {
        let mut due = vec![1; 500];
        due[0] = 1_000_000;
        let index = FakeIndex::new(due);
        let (mut from, mut all) = (ClaimCursor::default(), Vec::new());
        loop {
            let found = find(&index, from, NOW).await.unwrap();
            all.extend(numbers(&found));
            from = found.next;
            if !found.more {
                break;
            }
        }
        assert_eq!(all, (0..500).collect::<Vec<_>>());
        assert_eq!(from, ClaimCursor::default(), "the next round begins");
        assert!(*index.scanned_count.lock().unwrap() <= 6 * SCAN_MAX);
    }

    #[tokio::test]
    async fn every_endpoint_is_found_without_a_look_at_deliveries() {
        let all: Vec<DueEndpoint> = (0..SCAN_MAX + 3).map(|n| due(n, n == 1)).collect();
        let (mut from, mut found) = (ClaimCursor::default(), Vec::new());
        loop {
            let after = |after: Uuid| {
                let enabled = all.iter().filter(move |due| due.endpoint.uuid() > after);
                std::future::ready(Ok(enabled.take(SCAN_MAX).copied().collect()))
            };
            let step = find_any(after, from).await.unwrap();
            found.extend(step.endpoints);
            from = step.next;
            if !step.more {
                break;
            }
        }
        assert_eq!(from, ClaimCursor::default(), "the next round begins");
        assert_eq!(found.iter().filter(|due| !due.ordered).count(), all.len());
        assert_eq!(found.iter().filter(|due| due.ordered).count(), 1);
    }

    #[tokio::test]
    async fn ordered_endpoints_are_found_beside_the_others_and_an_endpoint_once_of_a_kind() {
        let mut index = FakeIndex::new(vec![0, 1, 1]);
        index.ordered = vec![Some(true), Some(true), Some(false)];
        let found = find(&index, ClaimCursor::default(), NOW).await.unwrap();
        let expected = [due(0, true), due(1, true), due(2, false), due(1, false)];
        assert_eq!((&found.endpoints[..], found.more), (&expected[..], false));
    }
}
