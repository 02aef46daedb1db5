//! Connection pools: one HTTP client per host, whose idle connections are bounded in total.
//!
//! A client bounds its idle connections per host only, and one event for thousands of hosts would leave thousands of
//! them open. So each host has a client of its own, which may keep as many idle connections as it had webhooks in
//! flight at once (a power of two); a client with more is replaced, unless its one connection is multiplexed
//! (HTTP/2). Their sum is the budget. A host that needs more than is left takes it from those that were unused for
//! longest: their clients are dropped, and with them their connections. If all others are in use, the host gets a
//! client that keeps none: its connections are closed after each attempt.
//!
//! **Invariant:** the clients alive, replaced ones in use included, may together keep as many idle connections as the
//! budget has, and no more.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Client;
use url::Url;

use crate::runtime::Stopwatch;

/// Unused clients that one attempt looks at, to drop those that have no connection any more.
const EXPIRED_PER_ATTEMPT: usize = 2;

/// Bounds of idle connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLimits {
    /// Over all hosts.
    pub(super) idle: usize,
    /// Per host.
    pub(super) idle_per_host: usize,
}

type Build = dyn Fn(usize) -> Result<Client, reqwest::Error> + Send + Sync;

/// The clients by host. Clones share them.
#[derive(Clone)]
pub(super) struct ConnectionPools(Arc<Shared>);

struct Shared {
    limits: PoolLimits,
    /// A client that was unused for so long has no connection any more.
    unused_max: Duration,
    /// Builds a client that keeps so many idle connections.
    build: Box<Build>,
    /// Keeps no idle connection.
    unpooled: Arc<PooledClient>,
    hosts: Mutex<Hosts>,
    reserved: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Hosts {
    by_name: HashMap<String, Host>,
    /// The one that was used first comes first.
    by_use: BTreeMap<u64, String>,
    /// The number of the next use.
    next_use: u64,
}

struct Host {
    /// Attempts hold clones of it, so this is the only one if the host is unused.
    client: Arc<PooledClient>,
    last_use: u64,
    used: Stopwatch,
}

/// The client of a host. An attempt holds it until the response is read.
pub(super) struct PooledClient {
    client: Client,
    /// The idle connections that it may keep.
    idle: usize,
    /// Whether the host speaks HTTP/2, so that one connection is enough for any number of webhooks.
    multiplexed: AtomicBool,
    /// Responses over HTTP/2.
    answered_streams: AtomicU64,
    /// What all clients alive may keep.
    reserved: Arc<AtomicUsize>,
}

impl PooledClient {
    fn new(client: Client, idle: usize, reserved: &Arc<AtomicUsize>) -> Arc<Self> {
        reserved.fetch_add(idle, Ordering::Relaxed);
        let (multiplexed, reserved) = (AtomicBool::new(false), Arc::clone(reserved));
        Arc::new(Self { client, idle, multiplexed, answered_streams: AtomicU64::new(0), reserved })
    }

    /// Notes that the host speaks HTTP/2.
    pub(super) fn note_multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
    }

    /// Notes a response over HTTP/2.
    pub(super) fn note_answered_stream(&self) {
        self.note_multiplexed();
        self.answered_streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the host is known to speak HTTP/2.
    pub(super) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// The responses over HTTP/2.
    pub(super) fn answered_streams(&self) -> u64 {
        self.answered_streams.load(Ordering::Relaxed)
    }

    /// Whether it is right for so many webhooks at once.
    fn is_enough_for(&self, in_flight: usize, idle_per_host: usize) -> bool {
        self.is_multiplexed() || self.idle >= in_flight.min(idle_per_host)
    }
}

impl fmt::Debug for PooledClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledClient").field("idle", &self.idle).finish_non_exhaustive()
    }
}

impl Deref for PooledClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for PooledClient {
    fn drop(&mut self) {
        self.reserved.fetch_sub(self.idle, Ordering::Relaxed);
    }
}

impl Host {
    /// Webhooks in flight.
    fn in_flight(&self) -> usize {
        Arc::strong_count(&self.client) - 1
    }
}

impl ConnectionPools {
    /// Pools without a connection. `build` builds a client that keeps so many idle connections, for at most
    /// `unused_max`.
    pub(super) fn new(
        limits: PoolLimits,
        unused_max: Duration,
        build: impl Fn(usize) -> Result<Client, reqwest::Error> + Send + Sync + 'static,
    ) -> Result<Self, reqwest::Error> {
        let reserved = Arc::default();
        Ok(Self(Arc::new(Shared {
            limits,
            unused_max,
            unpooled: PooledClient::new(build(0)?, 0, &reserved),
            build: Box::new(build),
            hosts: Mutex::default(),
            reserved,
        })))
    }

    /// The client for an attempt at this URL.
    pub(super) fn of_host(&self, url: &Url) -> Arc<PooledClient> {
        self.0.client(host_of(url))
    }
}

/// What connections are shared by: scheme, host and port.
fn host_of(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}://{}:{port}", url.scheme(), url.host_str().unwrap_or_default())
}

impl Shared {
    fn client(&self, host: String) -> Arc<PooledClient> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hosts.touch(&host);
        let in_flight = known.map_or(0, Host::in_flight) + 1;
        let client = known.map(|known| Arc::clone(&known.client));
        hosts.expire(self.unused_max);
        let per_host = self.limits.idle_per_host;
        if let Some(client) = &client
            && client.is_enough_for(in_flight, per_host)
        {
            return Arc::clone(client);
        }
        // Doubled, so that a host changes its client a few times at most.
        let idle = in_flight.next_power_of_two().min(per_host);
        // A client that is replaced counts until its attempts have ended.
        let wanted = self.reserved.load(Ordering::Relaxed) + idle;
        if wanted.saturating_sub(self.limits.idle) > hosts.unused_idle() {
            return client.unwrap_or_else(|| Arc::clone(&self.unpooled));
        }
        while self.reserved.load(Ordering::Relaxed) + idle > self.limits.idle {
            if !hosts.evict_unused() {
                return client.unwrap_or_else(|| Arc::clone(&self.unpooled));
            }
        }
        match (self.build)(idle) {
            Ok(built) => {
                let built = PooledClient::new(built, idle, &self.reserved);
                hosts.insert(host, &built);
                built
            }
            Err(error) => {
                tracing::error!(%error, "cannot build a webhook client, using another one");
                client.unwrap_or_else(|| Arc::clone(&self.unpooled))
            }
        }
    }
}

impl Hosts {
    /// Finds a host and makes it the one that was used last.
    fn touch(&mut self, name: &str) -> Option<&Host> {
        let host = self.by_name.get_mut(name)?;
        let name = self.by_use.remove(&host.last_use)?;
        (host.last_use, host.used) = (self.next_use, Stopwatch::start());
        self.by_use.insert(self.next_use, name);
        self.next_use += 1;
        Some(host)
    }

    fn insert(&mut self, name: String, client: &Arc<PooledClient>) {
        let (client, last_use, used) = (Arc::clone(client), self.next_use, Stopwatch::start());
        self.by_use.insert(last_use, name.clone());
        self.next_use += 1;
        if let Some(replaced) = self.by_name.insert(name, Host { client, last_use, used }) {
            self.by_use.remove(&replaced.last_use);
        }
    }

    /// What the clients of unused hosts may keep.
    fn unused_idle(&self) -> usize {
        let unused = self.by_name.values().filter(|host| host.in_flight() == 0);
        unused.map(|host| host.client.idle).sum()
    }

    /// Drops the client of the host that was unused for longest. `false` if all are in use.
    fn evict_unused(&mut self) -> bool {
        let is_unused =
            |name: &str| self.by_name.get(name).is_some_and(|host| host.in_flight() == 0);
        let unused = self.by_use.iter().find(|(_, name)| is_unused(name)).map(|(use_, _)| *use_);
        let Some(name) = unused.and_then(|unused| self.by_use.remove(&unused)) else {
            return false;
        };
        self.by_name.remove(&name);
        true
    }

    /// Drops clients that have no connection any more.
    fn expire(&mut self, unused_max: Duration) {
        for _ in 0..EXPIRED_PER_ATTEMPT {
            let oldest = self.by_use.first_key_value().and_then(|(_, name)| self.by_name.get(name));
            let is_expired =
                |host: &Host| host.in_flight() == 0 && host.used.elapsed() > unused_max;
            if !oldest.is_some_and(is_expired) || !self.evict_unused() {
                return;
            }
        }
    }
}

impl fmt::Debug for ConnectionPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPools").field("limits", &self.0.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn pools(idle: usize, unused_max: Duration) -> ConnectionPools {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let limits = PoolLimits { idle, idle_per_host: 4 };
        let build = |idle| Client::builder().no_proxy().pool_max_idle_per_host(idle).build();
        ConnectionPools::new(limits, unused_max, build).unwrap()
    }

    impl ConnectionPools {
        fn get(&self, host: &str) -> Arc<PooledClient> {
            self.of_host(&format!("http://{host}/hook").parse().unwrap())
        }

        fn reserved(&self) -> usize {
            self.0.reserved.load(Ordering::Relaxed)
        }

        fn hosts(&self) -> Vec<String> {
            let hosts = self.0.hosts.lock().unwrap();
            assert_eq!(hosts.by_name.len(), hosts.by_use.len());
            hosts.by_use.values().cloned().collect()
        }
    }

    #[test]
    fn host_keeps_as_many_connections_as_it_had_webhooks_in_flight_up_to_its_limit() {
        let pools = pools(100, LONG);
        let mut in_flight = Vec::new();
        for idle in [1, 2, 2, 4, 4, 4] {
            in_flight.push(pools.get("a"));
            assert_eq!(in_flight.last().unwrap().idle, idle);
        }
        assert_eq!(pools.reserved(), 1 + 2 + 4, "replaced clients count while they are in use");
        in_flight.clear();
        assert_eq!(pools.reserved(), 4);
        assert!(Arc::ptr_eq(&pools.get("a"), &pools.get("a")));
        assert_eq!(pools.hosts(), ["http://a:80"]);
    }

    #[test]
    fn host_that_speaks_http_2_keeps_its_one_connection() {
        let pools = pools(100, LONG);
        let client = pools.get("a");
        client.note_answered_stream();
        let in_flight: Vec<_> = (0..10).map(|_| pools.get("a")).collect();
        assert!(in_flight.iter().all(|other| Arc::ptr_eq(&client, other)));
    }

    #[test]
    fn host_that_was_unused_for_longest_makes_room() {
        let pools = pools(3, LONG);
        for host in ["a", "b", "c", "a", "d"] {
            pools.get(host);
        }
        assert_eq!(pools.hosts(), ["http://c:80", "http://a:80", "http://d:80"]);
        for number in 0..1_300 {
            pools.get(&format!("host-{number}"));
            assert!(pools.reserved() <= 3);
        }
    }

    #[test]
    fn hosts_in_use_keep_their_clients_and_others_get_one_without_connections() {
        let pools = pools(3, LONG);
        let held: Vec<_> = ["a", "b", "c"].into_iter().map(|host| pools.get(host)).collect();
        assert_eq!((pools.get("d").idle, pools.get("a").idle), (0, 1), "and none grows");
        assert_eq!(pools.reserved(), 3);
        drop(held);
        assert_eq!(pools.get("d").idle, 1);
        assert_eq!(pools.reserved(), 3);
    }

    #[test]
    fn clients_without_connections_are_dropped() {
        let pools = pools(100, Duration::ZERO);
        for host in ["a", "b", "c"] {
            pools.get(host);
        }
        assert_eq!(pools.hosts(), ["http://c:80"]);
    }

    #[test]
    fn connections_are_shared_by_scheme_host_and_port() {
        let host = |url: &str| host_of(&url.parse().unwrap());
        assert_eq!(host("https://user:pw@Example.com/a?b"), "https://example.com:443");
        assert_eq!(host("https://example.com:443/c"), "https://example.com:443");
        assert_ne!(host("https://example.com:444/"), host("https://example.com/"));
        assert_eq!(host("http://[::1]:8080/"), "http://[::1]:8080");
    }
}
