//! Endpoints that change, and organisations that are new.

use std::time::Duration;

use uuid::Uuid;

use super::model::SimEvent;
use super::server::is_healthy;
use super::world::{SimReceiver, Step, World};
use crate::domain::{Endpoint, EndpointId, OrgId};

/// The first organisation that posts only once everything else is busy. They are no healthy ones.
const NEWCOMERS_FROM: u128 = 1_001;
/// Events of its first burst.
const BURST: u64 = 6;

impl World {
    /// Adds organisations with slow endpoints that nothing is known of when they post.
    pub(super) fn add_newcomers(&mut self) {
        for number in 0..8 {
            let org = NEWCOMERS_FROM + 2 * number;
            self.add_endpoints(org, &[SimReceiver::Slow]);
            let wait = self.numbers.millis(15_000, 55_000);
            self.after(wait, Step::Newcomer(org));
        }
    }

    /// An organisation posts some events at once.
    pub(super) fn newcomer(&mut self, org: u128) {
        let server = self.numbers.index(2);
        for _ in 0..BURST {
            self.next_event += 1;
            let (number, bytes) = (self.next_event, self.payload_bytes(org));
            let org = OrgId::from_uuid(Uuid::from_u128(org));
            self.accept(server, SimEvent { org, number, key: number, bytes });
        }
    }

    pub(super) fn change(&mut self) {
        if !self.is_trouble() {
            return;
        }
        let ids: Vec<EndpointId> = self.receivers.keys().copied().collect();
        let any = ids[self.numbers.index(ids.len())];
        // Every other one is one that attempts are under way to, and it moves.
        let attempted = self.attempted().filter(|_| self.numbers.one_in(2));
        let (id, what) = attempted.map_or((any, self.numbers.below(3)), |id| (id, 2));
        if !is_healthy(&self.store.endpoints[&id]) {
            self.change_endpoint(id, |endpoint| match what {
                0 => endpoint.disabled_reason = Some("by its owner".to_owned()),
                1 => endpoint.disabled_reason = None,
                _ => {
                    let url = format!("https://elsewhere.example/{}", endpoint.version);
                    endpoint.url = url.parse().unwrap();
                }
            });
        }
        let wait = self.numbers.millis(100, 2_500);
        self.after(wait, Step::Change);
    }

    /// An endpoint that an attempt is under way to.
    fn attempted(&mut self) -> Option<EndpointId> {
        let begun = self.under_way.iter().filter(|(_, attempts)| !attempts.is_empty());
        let begun = begun.filter_map(|(id, _)| self.store.pending.get(id));
        let ids: Vec<EndpointId> = begun.map(|row| row.endpoint).collect();
        let any = self.numbers.index(ids.len().max(1));
        ids.get(any).copied()
    }

    pub(super) fn change_endpoint(&mut self, id: EndpointId, change: impl FnOnce(&mut Endpoint)) {
        let url = self.store.endpoints[&id].url.clone();
        let org = self.store.change(id, change);
        let is_moved = self.store.endpoints[&id].url != url;
        for server in &mut self.servers {
            server.oracle.forget(id, is_moved);
        }
        // The server that made the change follows at once, the other when its change feed brings it.
        let first = self.numbers.index(2);
        self.after(Duration::ZERO, Step::Follow { server: first, org });
        let wait = self.numbers.millis(1, 1_000);
        self.after(wait, Step::Follow { server: 1 - first, org });
    }
}
