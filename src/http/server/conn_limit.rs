//! Connection limiter: how many connections may be open, in total and per client network.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::config::Networks;
use crate::domain::ClientNetwork;

/// Counts open connections. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct ConnLimiter {
    total: Arc<Semaphore>,
    /// Open connections per client network; at most one entry per connection.
    blocks: Arc<Mutex<HashMap<ClientNetwork, u32>>>,
    per_block: u32,
    /// Trusted proxies, which forward many clients and are exempt from the limit per network.
    uncounted: Networks,
}

/// The right to hold one connection open, given back on drop.
#[derive(Debug)]
pub(super) struct ConnPermit {
    _total: OwnedSemaphorePermit,
    _block: Option<BlockPermit>,
}

#[derive(Debug)]
struct BlockPermit {
    blocks: Arc<Mutex<HashMap<ClientNetwork, u32>>>,
    block: ClientNetwork,
}

impl ConnLimiter {
    /// A limiter with no connection open. Beyond `total`, connections wait in the listener's backlog; beyond
    /// `per_block` for one network, they are closed.
    pub(super) fn new(total: u32, per_block: u32, uncounted: Networks) -> Self {
        let total = Arc::new(Semaphore::new(total as usize));
        Self { total, blocks: Arc::default(), per_block, uncounted }
    }

    /// Waits until one more connection may be open in total.
    pub(super) async fn reserve(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.total).acquire_owned().await
    }

    /// The permit for a connection from `peer`; `None` when its network has reached its limit.
    pub(super) fn permit(&self, total: OwnedSemaphorePermit, peer: IpAddr) -> Option<ConnPermit> {
        let counted = !self.uncounted.contain(peer.to_canonical());
        let block = ClientNetwork::of(peer);
        let block = if counted { Some(self.block_permit(block)?) } else { None };
        Some(ConnPermit { _total: total, _block: block })
    }

    fn block_permit(&self, block: ClientNetwork) -> Option<BlockPermit> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = blocks.entry(block).or_insert(0);
        if *taken >= self.per_block {
            return None;
        }
        *taken += 1;
        Some(BlockPermit { blocks: Arc::clone(&self.blocks), block })
    }
}

impl Drop for BlockPermit {
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
    async fn clients_have_a_limit_each_and_proxies_none() {
        let limiter = ConnLimiter::new(9, 2, "10.0.0.0/8".parse().unwrap());
        let take = async |peer: &str| {
            limiter.permit(limiter.reserve().await.unwrap(), peer.parse().unwrap())
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
        assert!(limiter.blocks.lock().unwrap().is_empty());
        assert_eq!(limiter.total.available_permits(), 9 - 3);
    }
}
