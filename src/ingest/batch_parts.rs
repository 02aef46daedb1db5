//! How many events of a batch are stored together, and whose are stored in order.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::{Event, OrgId};
use crate::store::OrgEndpoints;

/// The endpoints that events are planned for.
pub(super) type Endpoints = HashMap<OrgId, Arc<OrgEndpoints>>;

/// How many of the first events are stored together: with at most so many deliveries, but at least one.
pub(super) fn fitting(
    events: &[Arc<Event>],
    endpoints: &Endpoints,
    deliveries_max: usize,
) -> usize {
    let mut total = 0;
    let fits = |event: &&Arc<Event>| {
        total += deliveries(event, endpoints);
        total <= deliveries_max
    };
    events.iter().take_while(fits).count().clamp(1, events.len().max(1)).min(events.len())
}

/// How many deliveries an event is planned for, or a few more.
pub(super) fn deliveries(event: &Event, endpoints: &Endpoints) -> usize {
    let of_org = endpoints.get(&event.org_id);
    of_org
        .map_or(0, |of_org| of_org.matching(event.event_type.as_str(), event.account_id.as_deref()))
}

/// Whether an organisation has ordered endpoints: its events are stored in order. It may have some where they cannot be
/// read.
pub(super) fn is_ordered(endpoints: &Endpoints, org: &OrgId) -> bool {
    endpoints.get(org).is_none_or(|of_org| of_org.has_ordered())
}
