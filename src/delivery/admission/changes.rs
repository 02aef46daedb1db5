//! Changes of endpoints, and what is remembered of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::endpoint_state::EndpointState;
use super::{Admission, Applied, CHANGES_MAX, ENDPOINTS_MAX, TROUBLED_ENDPOINTS_MAX, Totals};
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::runtime::Monotonic;
use crate::store::{ChangedEndpoint, EndpointsSince, OrgEndpoints};

impl<T> Admission<T> {
    /// Applies a change of an organisation's endpoints, and returns the waiting deliveries that it outdates;
    /// their leases are to be released. `current` are those that are enabled now.
    pub(in crate::delivery) fn endpoints_changed(
        &mut self,
        org: OrgId,
        current: &OrgEndpoints,
    ) -> Vec<T> {
        if self.is_outdated(org, current.version) {
            return Vec::new();
        }
        self.note_version(org, current.version).has_unknown = false;
        let enabled: HashMap<EndpointId, &Arc<Endpoint>> = current
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.disabled_reason.is_none())
            .map(|endpoint| (endpoint.id, endpoint))
            .collect();
        let unreadable: BTreeSet<EndpointId> =
            current.unreadable.iter().map(|endpoint| endpoint.id).collect();
        let of_org = self.endpoints.iter().filter(|(_, state)| state.org() == org);
        let known: BTreeSet<EndpointId> = of_org.map(|(id, _)| *id).collect();
        let follow = |id: EndpointId| {
            if unreadable.contains(&id) {
                return self.forget(id);
            }
            self.follow(id, enabled.get(&id).copied())
        };
        known.into_iter().flat_map(follow).collect()
    }

    /// Up to which version the changes of an organisation's endpoints are applied; `None` when that is not known.
    pub(in crate::delivery) fn applied_version(&self, org: OrgId) -> Option<u64> {
        let applied = self.changes.get(&org).filter(|applied| !applied.has_unknown)?;
        Some(applied.version)
    }

    /// Applies the changes of an organisation's endpoints after an [applied](Self::applied_version) version, and
    /// returns the waiting deliveries that they outdate; their leases are to be released.
    pub(in crate::delivery) fn apply_changes(
        &mut self,
        org: OrgId,
        changes: &EndpointsSince,
    ) -> Vec<T> {
        if self.is_outdated(org, changes.version) {
            // Whoever applied the newer version has applied these, too.
            return Vec::new();
        }
        self.note_version(org, changes.version);
        let is_enabled = |endpoint: &&Arc<Endpoint>| endpoint.disabled_reason.is_none();
        let follow = |changed: &ChangedEndpoint| {
            self.follow(changed.id, changed.endpoint.as_ref().filter(is_enabled))
        };
        changes.changed.iter().flat_map(follow).collect()
    }

    /// Takes over what an endpoint is now, if it is known here, and returns the waiting deliveries that this outdates.
    fn follow(&mut self, id: EndpointId, new: Option<&Arc<Endpoint>>) -> Vec<T> {
        let Some(state) = self.endpoints.get_mut(&id) else { return Vec::new() };
        if new.is_some_and(|new| new.version < state.endpoint.version) {
            return Vec::new();
        }
        let was_ordered = state.endpoint.policy.ordered;
        let is_reordered = new.is_some_and(|new| new.policy.ordered != was_ordered);
        state.update(new);
        if state.is_off {
            self.behind.remove(&id);
        }
        if state.is_off || is_reordered { self.clear(id) } else { Vec::new() }
    }

    /// Drops what is known of an organisation's endpoints, which have changed in an unknown way, and returns
    /// their waiting deliveries.
    pub(in crate::delivery) fn forget_endpoints(&mut self, org: OrgId) -> Vec<T> {
        if let Some(applied) = self.changes.get_mut(&org) {
            applied.has_unknown = true;
        }
        let of_org = self.endpoints.iter().filter(|(_, state)| state.org() == org);
        let known: BTreeSet<EndpointId> = of_org.map(|(id, _)| *id).collect();
        known.into_iter().flat_map(|id| self.forget(id)).collect()
    }

    /// Drops what is known of all endpoints and of their changes: the database that counted them is gone. Returns the
    /// waiting deliveries.
    pub(in crate::delivery) fn forget_all_endpoints(&mut self) -> Vec<T> {
        self.changes.clear();
        self.endpoints.values_mut().for_each(EndpointState::forget_version);
        let known: BTreeSet<EndpointId> = self.endpoints.keys().copied().collect();
        known.into_iter().flat_map(|id| self.forget(id)).collect()
    }

    /// Sends nothing to an endpoint until it is read again, which may be without a new version: somebody may mend its
    /// row by hand. Returns its waiting deliveries.
    fn forget(&mut self, id: EndpointId) -> Vec<T> {
        if let Some(state) = self.endpoints.get_mut(&id) {
            state.forget();
        }
        self.clear(id)
    }

    /// Whether a newer version of an organisation's endpoints is known.
    pub(super) fn is_outdated(&self, org: OrgId, version: u64) -> bool {
        self.changes.get(&org).is_some_and(|known| version < known.version)
    }

    fn note_version(&mut self, org: OrgId, version: u64) -> &mut Applied {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.clear();
        }
        let applied = self.changes.entry(org).or_insert(Applied { version, has_unknown: false });
        applied.version = applied.version.max(version);
        applied
    }

    /// [`Self::remember`] for an endpoint that was read since the last change that is applied: it is known again.
    pub(super) fn remember_current(
        &mut self,
        endpoint: &Arc<Endpoint>,
        now: Monotonic,
    ) -> &mut EndpointState<T> {
        let state = self.remember(endpoint, now);
        if state.is_unknown && endpoint.version >= state.endpoint.version {
            state.update(Some(endpoint));
        }
        state
    }

    /// The state of an endpoint, made if there is none. One that is known keeps the newer settings.
    pub(super) fn remember(
        &mut self,
        endpoint: &Arc<Endpoint>,
        now: Monotonic,
    ) -> &mut EndpointState<T> {
        if self.endpoints.len() >= self.forget_at {
            self.forget_idle(now);
        }
        let state = self
            .endpoints
            .entry(endpoint.id)
            .or_insert_with(|| EndpointState::new(Arc::clone(endpoint)));
        if endpoint.version > state.endpoint.version {
            state.update(Some(endpoint));
        }
        state
    }

    /// Forgets endpoints that nothing is known of but their speed, and if too many are left, all that have
    /// nothing in memory: their breakers then close.
    pub(super) fn forget_idle(&mut self, now: Monotonic) {
        self.endpoints.retain(|_, state| !state.is_idle(now));
        if self.endpoints.len() > TROUBLED_ENDPOINTS_MAX {
            self.endpoints.retain(|_, state| state.held() > 0);
        }
        self.behind.retain(|id| self.endpoints.contains_key(id));
        self.wanted.retain(|_, wanted| self.behind.contains(&wanted.endpoint));
        self.forget_at = ENDPOINTS_MAX.max(2 * self.endpoints.len());
    }

    pub(super) fn forget_org_if_idle(&mut self, org: OrgId) {
        if self.orgs.get(&org).is_some_and(|state| state.held == Totals::default()) {
            self.orgs.remove(&org);
        }
    }
}
