//! What requests on one connection share: the peer, the key it presented last, and what it still sends.

use std::net::IpAddr;
use std::sync::Arc;

use super::head_scan::HeadScan;
use super::unread_body::UnreadBody;
use crate::auth::ConnectionKeyCache;

/// One client connection, as request handling sees it.
#[derive(Debug)]
pub(super) struct Connection {
    /// The address of the other end: the client, or a proxy; see [`client_ip`](super::client_ip).
    pub(super) peer: IpAddr,
    /// The key presented last, so that a client that repeats it is recognised without a look-up.
    pub(super) key_cache: ConnectionKeyCache,
    /// The rest of the last request's body, if the request was answered before it was read.
    pub(super) unread: Arc<UnreadBody>,
    /// What the head of the current request has that hyper does not show.
    pub(super) head_scan: Arc<HeadScan>,
}

impl Connection {
    /// A new connection from `peer`, which has presented no key yet.
    pub(super) fn new(peer: IpAddr) -> Self {
        let (unread, head_scan) = (Arc::default(), Arc::default());
        Self { peer, key_cache: ConnectionKeyCache::default(), unread, head_scan }
    }
}
