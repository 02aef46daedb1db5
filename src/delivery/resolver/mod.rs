//! The resolver: from the host name of an endpoint to the addresses that the HTTP client may connect to.
//!
//! # Parts
//! - [`NameServers`] asks the hosts file and the name servers, without blocking a thread.
//! - **Look-ups** (`lookups`) share answers: a cache, one look-up at a time per name, and permits per
//!   organisation (`permits`).
//! - The **pinned resolver** (`pinned`) is the HTTP client's. It resolves nothing: it hands the client the
//!   addresses that the sender has looked up, after the SSRF guard has checked every one of them.
//!
//! # Operation
//! The sender gives a request the cached addresses of its host, if there are any. The client asks for them only
//! to open a connection; a request on an open connection needs none, whatever the name servers do. If the client
//! needs addresses that the request does not have, the request fails before anything is sent, and the sender looks
//! the name up and makes the request once more.
//!
//! The look-up is not part of the request, because the client knows a name and not whose it is, and because its
//! timeouts must not run while the look-up waits for its turn.
//!
//! # Isolation
//! A tenant may own a name server that never answers, and hundreds of names there. Each organisation has at most
//! [`ORG_LOOKUPS_MAX`] of the [`LOOKUPS_MAX`] look-ups in flight, and each ends within `DNS_TIMEOUT`. Waiting for
//! a permit is no failure of the endpoint: an attempt that has waited for [`WAIT_MAX`] and the time of a look-up has
//! not been made, and its delivery goes back to the store. A look-up joins one of another organisation only when it holds a permit of
//! its own, so nobody waits behind another's queue.
//!
//! # Failure
//! A look-up that fails or times out is a failed attempt. Failures are cached, too (RFC 2308, RFC 9520): a name
//! without addresses for as long as its zone says, within bounds, and any other failure for [`FAILURE_TTL`].
//!
//! **Invariant:** the client connects to nothing that the guard has not checked for this very connection.

mod lookups;
#[cfg(test)]
#[path = "../../../tests/it/support/name_server.rs"]
mod name_server;
mod name_servers;
mod permits;
mod pinned;

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub(super) use lookups::Lookups;
pub use name_servers::NameServers;
pub(super) use pinned::{HostUnknown, PinnedHost, PinnedResolver, with_host};

/// Maximum look-ups in flight. Each has up to three sockets open per kind of address and name server asked: twelve
/// when it hangs, with two servers.
const LOOKUPS_MAX: usize = 128;
/// Maximum look-ups in flight per organisation. Sixteen organisations whose name servers hang fill
/// [`LOOKUPS_MAX`]; with look-ups of 20 ms one makes 400 a second.
const ORG_LOOKUPS_MAX: usize = 8;
/// How long an attempt waits for a permit before it gives its slot back. Long enough that a burst of new names
/// gets through, and much shorter than a lease.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How long an answer is cached at least, so that a burst of webhooks to a name with a TTL of zero is one look-up.
const ANSWER_TTL_MIN: Duration = Duration::from_secs(1);
/// How long an answer is cached at most: a receiver that moves although its TTL says otherwise, and an entry of
/// the hosts file that changes, are found within minutes.
const ANSWER_TTL_MAX: Duration = Duration::from_mins(5);
/// How long the absence of a name is cached at most: its owner may be about to create it.
const ABSENCE_TTL_MAX: Duration = Duration::from_mins(1);
/// How long any other failure is cached: the initial time that RFC 9520 section 3.2 recommends. Not longer than
/// the first wait of the retry schedule, so that a retry asks again.
const FAILURE_TTL: Duration = Duration::from_secs(5);

/// Resolves host names.
#[async_trait]
pub trait DnsResolver: Debug + Send + Sync {
    /// Looks up the addresses of a name. The caller bounds the time.
    async fn lookup(&self, name: &str) -> DnsAnswer;
}

/// The answer to a look-up.
#[derive(Clone, Debug)]
pub struct DnsAnswer {
    /// Every address of the name, at least one; ports are zero.
    pub addresses: Result<Arc<[SocketAddr]>, LookupError>,
    /// How long the answer may be used, failures too; zero for only those that wait for it now.
    pub ttl: Duration,
}

impl DnsAnswer {
    /// A failure, cached for a moment.
    fn failed(error: LookupError) -> Self {
        Self { addresses: Err(error), ttl: FAILURE_TTL }
    }
}

/// Why a look-up found no address. Tenants see it, so it names no server of the operator.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NoSuchName,
    /// The name exists and has no address.
    #[error("the name has no address")]
    NoAddress,
    /// The host is no valid name.
    #[error("the name is not valid")]
    InvalidName,
    /// No name server answered in time.
    #[error("no answer from a name server within {}", humantime::format_duration(*.0))]
    NoAnswer(Duration),
    /// A name server answered with an error.
    #[error("a name server answered: {0}")]
    Server(String),
    /// No name server can be asked, or its answer cannot be read.
    #[error("no name server can be asked")]
    Unreachable,
}
