//! Places: how many connections there may be, in all and of one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::config::Networks;
use crate::domain::ClientNetwork;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 16_384;

/// The places that are taken. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// As many entries as there are connections, at most.
    blocks: Arc<Mutex<HashMap<ClientNetwork, u32>>>,
    per_block: u32,
    /// Proxies pass on many clients, and are not counted.
    uncounted: Networks,
}

/// A connection's place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _one_of_all: OwnedSemaphorePermit,
    _one_of_a_block: Option<BlockPlace>,
}

#[derive(Debug)]
struct BlockPlace {
    blocks: Arc<Mutex<HashMap<ClientNetwork, u32>>>,
    block: ClientNetwork,
}

impl Places {
    /// All places are free.
    pub(super) fn new(per_block: u32, uncounted: Networks) -> Self {
        let all = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { all, blocks: Arc::default(), per_block, uncounted }
    }

    /// Waits for one of all places.
    pub(super) async fn one_of_all(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.all).acquire_owned().await
    }

    /// The place of a connection from `peer`; `None` when it has as many as one may have.
    pub(super) fn take(&self, one_of_all: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let counted = !self.uncounted.contain(peer.to_canonical());
        let block = ClientNetwork::of(peer);
        let one_of_a_block = if counted { Some(self.one_of_a_block(block)?) } else { None };
        Some(Place { _one_of_all: one_of_all, _one_of_a_block: one_of_a_block })
    }

    fn one_of_a_block(&self, block: ClientNetwork) -> Option<BlockPlace> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = blocks.entry(block).or_insert(0);
        if *taken >= self.per_block {
            return None;
        }
        *taken += 1;
        Some(BlockPlace { blocks: Arc::clone(&self.blocks), block })
    }
}

impl Drop for BlockPlace {
    fn drop(&mut self) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = blocks.get_mut(&self.block) {
            *taken -= 1;
            if *taken == 0 {
                blocks.remove(&self.block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_client_has_so_many_places_and_proxies_have_all() {
        let places = Places::new(2, "10.0.0.0/8".parse().unwrap());
        let take = async |peer: &str| {
            places.take(places.one_of_all().await.unwrap(), peer.parse().unwrap())
        };
        let first = take("192.0.2.1").await;
        let second = take("192.0.2.1").await;
        assert!(first.is_some() && second.is_some());
        assert!(take("192.0.2.1").await.is_none());
        assert!(take("192.0.2.2").await.is_some());
        drop(first);
        let third = take("192.0.2.1").await;
        assert!(third.is_some());
        for _ in 0..3 {
            std::mem::forget(take("10.0.0.1").await.unwrap());
        }
        drop((second, third));
        assert!(places.blocks.lock().unwrap().is_empty());
        assert_eq!(places.all.available_permits(), CONNECTIONS_MAX - 3);
    }
}
