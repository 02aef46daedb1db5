//! What requests on one connection share: the peer, and the key it presented last.

use std::net::IpAddr;

use crate::auth::ConnectionKeyCache;

/// One client connection, as request handling sees it.
#[derive(Debug)]
pub(super) struct Connection {
    /// The address of the other end: the client, or a proxy; see [`client_ip`](super::client_ip).
    pub(super) peer: IpAddr,
    /// The key presented last, so that a client that repeats it is recognised without a look-up.
    pub(super) key_cache: ConnectionKeyCache,
}

impl Connection {
    /// A new connection from `peer`, which has presented no key yet.
    pub(super) fn new(peer: IpAddr) -> Self {
        Self { peer, key_cache: ConnectionKeyCache::default() }
    }
}
