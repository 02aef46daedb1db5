//! Attempts that somebody asks for.

use super::server::LEASE;
use super::world::{Step, World};
use crate::delivery::admission::Reserved;
use crate::domain::EndpointId;

impl World {
    /// Somebody asks for an attempt at any pending delivery now.
    pub(super) fn ask(&mut self) {
        if !self.is_trouble() {
            return;
        }
        let wait = self.numbers.millis(50, 1_000);
        self.after(wait, Step::Ask);
        let server = self.numbers.index(2);
        if self.store.pending.is_empty() {
            return;
        }
        let nth = self.numbers.index(self.store.pending.len());
        let Some((id, row)) = self.store.pending.iter().nth(nth) else { return };
        let (id, endpoint) = (*id, row.endpoint);
        let it = &mut self.servers[server];
        if !it.is_up || it.backlog.stops_claims() {
            return;
        }
        let of_org = it.endpoints(self.store.endpoints[&endpoint].org_id, &self.store);
        let found = of_org.endpoints.iter().find(|known| known.id == endpoint);
        let Some(known) = found else { return };
        let is_known = it.admission.introduce(known, of_org.version, self.now);
        if !is_known || !it.admission.reserve_manual(endpoint, self.now) {
            return it.admission.left_in_store(known, self.now);
        }
        let (incarnation, wait) = (it.incarnation, self.numbers.millis(1, 20));
        self.after(wait, Step::Asked { server, incarnation, id, endpoint });
    }

    /// The store has answered the claim for it.
    pub(super) fn asked(
        &mut self,
        server: usize,
        incarnation: u64,
        (id, endpoint): (u64, EndpointId),
    ) {
        let fails = self.fails(20);
        let answer_is_lost = fails && self.numbers.one_in(2);
        let lease = (self.token(server), self.now.plus(LEASE));
        let lease = (!fails || answer_is_lost).then(|| self.store.lease_one(id, lease));
        let leased = lease.flatten().filter(|_| !fails);
        if self.servers[server].incarnation != incarnation {
            return;
        }
        let it = &mut self.servers[server];
        if leased.is_none() {
            it.admission.forget_manual(endpoint);
            it.admission.note_left(endpoint);
        }
        it.admission.unreserve(Reserved { endpoint, count: 1, bytes: 0 });
        it.queue(leased.into_iter().collect(), self.now);
        self.go_on(server);
    }
}
