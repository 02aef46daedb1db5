//! Fan-out: decides, without touching the store, which events of a batch may be stored together and which
//! deliveries they need. Either engine then writes the result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{
    DeliveryId, Endpoint, Event, EventId, Lease, LeasedDelivery, OrgId, Timestamp,
};

use super::LeaseBudget;
use crate::store::Result;
use crate::store::crypto::Keyring;
use crate::store::endpoints;
use crate::store::engine::Row;

/// Events with no two of one key, in the order they came.
pub(super) type DedupPass = Vec<Arc<Event>>;

/// Splits a batch into passes to be written one after the other, and leaves out copies.
///
/// Nearly always that is one pass. An id comes again in a later pass only when its `dedup_id` was
/// used again after the window: two rows then, which one statement could not write.
pub(super) fn dedup_passes(events: &[Arc<Event>], dedup_window: Duration) -> Vec<DedupPass> {
    let mut kept: HashMap<(OrgId, EventId), Vec<Timestamp>> = HashMap::with_capacity(events.len());
    let mut passes: Vec<DedupPass> = vec![Vec::with_capacity(events.len())];
    for event in events {
        let earlier = kept.entry((event.org_id, event.id)).or_default();
        if earlier.iter().any(|kept_at| is_copy(event, *kept_at, dedup_window)) {
            continue;
        }
        if passes.len() <= earlier.len() {
            passes.push(Vec::new());
        }
        passes[earlier.len()].push(Arc::clone(event));
        earlier.push(event.received_at);
    }
    passes
}

/// Whether an event of the same id, accepted at `kept_at`, makes this one a copy.
fn is_copy(event: &Event, kept_at: Timestamp, dedup_window: Duration) -> bool {
    let apart = event.received_at.since(kept_at).max(kept_at.since(event.received_at));
    apart.is_zero() || event.dedup_id.is_some() && apart < dedup_window
}

/// The endpoints of the organisations of a batch that are enabled, but for a suspension.
#[derive(Default)]
pub(super) struct Endpoints(HashMap<OrgId, Vec<Arc<Endpoint>>>);

impl Endpoints {
    /// Reads rows of endpoints.
    pub(super) fn read(rows: impl IntoIterator<Item = Row>, keyring: &Keyring) -> Result<Self> {
        let mut by_org: HashMap<OrgId, Vec<Arc<Endpoint>>> = HashMap::new();
        for row in rows {
            let endpoint = endpoints::read(&row, keyring)?;
            by_org.entry(endpoint.org_id).or_default().push(Arc::new(endpoint));
        }
        Ok(Self(by_org))
    }

    /// Whether some endpoint wants an event.
    pub(super) fn is_wanted(&self, event: &Event) -> bool {
        self.wanting(event).next().is_some()
    }

    fn wanting<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        let of_org = self.0.get(&event.org_id).map_or(&[][..], Vec::as_slice);
        of_org.iter().filter(|endpoint| endpoint.event_types.matches(event.event_type.as_str()))
    }
}

/// A delivery to be planned if its event turns out to be new.
pub(super) struct Candidate<'a> {
    pub(super) id: DeliveryId,
    pub(super) event: &'a Arc<Event>,
    pub(super) endpoint: &'a Arc<Endpoint>,
}

impl Candidate<'_> {
    /// Whether it may be planned leased, given the budget.
    pub(super) fn may_be_leased(&self, budget: Option<LeaseBudget<'_>>) -> bool {
        let is_in =
            |budget: LeaseBudget<'_>| budget.except.binary_search(&self.endpoint.id).is_err();
        !self.endpoint.policy.ordered && budget.is_some_and(is_in)
    }

    /// The delivery as its caller holds it, planned under this lease.
    pub(super) fn leased(&self, lease: Lease) -> LeasedDelivery {
        LeasedDelivery {
            id: self.id,
            event: Arc::clone(self.event),
            endpoint: Arc::clone(self.endpoint),
            attempts: 0,
            lease,
        }
    }
}

/// One candidate for every endpoint that wants an event, in the order of the events.
pub(super) fn candidates<'a>(
    events: impl IntoIterator<Item = &'a Arc<Event>>,
    endpoints: &'a Endpoints,
    now: Timestamp,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for event in events {
        for endpoint in endpoints.wanting(event) {
            candidates.push(Candidate { id: DeliveryId::mint(now), event, endpoint });
        }
    }
    candidates
}

/// The organisations of some events, each once, in key order.
pub(super) fn orgs_of(events: &[Arc<Event>]) -> Vec<OrgId> {
    let mut orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
    orgs.sort_unstable();
    orgs.dedup();
    orgs
}

/// Whether deliveries of a pass may be leased. Deliveries of a suspended organisation may not: they
/// wait in the store, where the claim that finds them parks them. It can post nothing, so few
/// passes have any, and those leave the other deliveries to the claims as well.
pub(super) fn may_lease(candidates: &[Candidate<'_>]) -> bool {
    candidates.iter().all(|candidate| candidate.endpoint.disabled_reason.is_none())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::TraceId;

    const WINDOW: Duration = Duration::from_micros(10);

    fn event(org: OrgId, id: EventId, dedup: bool, micros: i64) -> Arc<Event> {
        Arc::new(Event {
            id,
            org_id: org,
            event_type: "a".parse().unwrap(),
            payload: Bytes::from_static(b"1"),
            dedup_id: dedup.then(|| "d".to_owned()),
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: Timestamp::from_micros(micros),
            trace_id: TraceId::mint(),
        })
    }

    #[test]
    fn copies_inside_the_window_are_left_out_and_later_ones_get_a_pass_of_their_own() {
        let at = Timestamp::from_micros(1);
        let (org, id) = (OrgId::mint(at), EventId::mint(at));
        let batch = [5, 5, 14, 15, 24, 25].map(|micros| event(org, id, true, micros));
        let passes = dedup_passes(&batch, WINDOW);
        let times: Vec<Vec<i64>> = passes
            .iter()
            .map(|pass| pass.iter().map(|event| event.received_at.micros()).collect())
            .collect();
        assert_eq!(times, [[5], [15], [25]]);
    }

    #[test]
    fn events_without_a_dedup_id_are_copies_only_of_themselves() {
        let at = Timestamp::from_micros(1);
        let (org, id, other) = (OrgId::mint(at), EventId::mint(at), EventId::mint(at));
        let batch =
            [event(org, id, false, 5), event(org, other, false, 5), event(org, id, false, 5)];
        let passes = dedup_passes(&batch, WINDOW);
        assert_eq!(passes.len(), 1);
        assert_eq!(passes[0].len(), 2);
    }
}
