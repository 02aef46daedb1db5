//! The DNS resolver of the HTTP client: resolves host names and checks every address with the SSRF guard.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::ssrf_guard::SsrfGuard;

/// Maximum look-ups in flight. Each blocks a thread of the pool that key hashing uses too, for as long as a
/// tenant's name server takes.
const LOOKUPS_MAX: usize = 128;

/// Resolves host names. Called on a thread that may block.
pub trait DnsResolver: Debug + Send + Sync {
    /// The addresses of a name; their ports are ignored.
    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>>;
}

/// Resolves names as the operating system does.
#[derive(Debug)]
pub struct SystemResolver;

impl DnsResolver for SystemResolver {
    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        (name, 0).to_socket_addrs().map(Vec::from_iter)
    }
}

/// The HTTP client's resolver: a [`DnsResolver`] whose answers the guard checks.
#[derive(Clone, Debug)]
pub(super) struct GuardedResolver {
    guard: SsrfGuard,
    resolver: Arc<dyn DnsResolver>,
    lookups: Arc<Semaphore>,
}

impl GuardedResolver {
    pub(super) fn new(guard: SsrfGuard, resolver: Arc<dyn DnsResolver>) -> Self {
        Self { guard, resolver, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { guard, resolver, lookups } = self.clone();
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            // Tokio's `lookup_host` would drop the permit with this future, when the attempt times out, while
            // its thread is still blocked.
            let lookup = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                resolver.addresses(name.as_str())
            });
            let addresses = lookup.await??;
            guard.check_all(&addresses)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use crate::config::DestinationConfig;

    use super::super::ssrf_guard::SsrfRefusal;
    use super::*;

    /// Scripted answers, one per look-up.
    #[derive(Debug)]
    struct Script(Mutex<VecDeque<&'static [&'static str]>>);

    impl DnsResolver for Script {
        fn addresses(&self, _name: &str) -> io::Result<Vec<SocketAddr>> {
            let next = self.0.lock().unwrap().pop_front().unwrap();
            Ok(next.iter().map(|ip| SocketAddr::new(ip.parse().unwrap(), 0)).collect())
        }
    }

    async fn resolve(resolver: &GuardedResolver, name: &str) -> Result<Vec<String>, SsrfRefusal> {
        match resolver.resolve(name.parse().unwrap()).await {
            Ok(addresses) => Ok(addresses.map(|address| address.ip().to_string()).collect()),
            Err(error) => Err(*error.downcast_ref().unwrap()),
        }
    }

    #[tokio::test]
    async fn every_lookup_is_checked_regardless_of_earlier_answers() {
        let script: [&[&str]; 6] = [
            &["1.1.1.1"],
            &["127.0.0.1"],
            &["1.1.1.1", "10.0.0.1"],
            &["10.0.0.1", "1.1.1.1"],
            &[],
            &["1.1.1.1", "2606:4700::1111"],
        ];
        let resolver = Arc::new(Script(Mutex::new(script.into())));
        let resolver =
            GuardedResolver::new(SsrfGuard::new(&DestinationConfig::default()), resolver);
        let mut answers = Vec::new();
        for _ in 0..script.len() {
            answers.push(resolve(&resolver, "rebinding.example").await);
        }
        let ok = |addresses: &[&str]| Ok(addresses.iter().map(ToString::to_string).collect());
        let expected = [
            ok(&["1.1.1.1"]),
            Err(SsrfRefusal::Address),
            Err(SsrfRefusal::Address),
            Err(SsrfRefusal::Address),
            Err(SsrfRefusal::NoAddress),
            ok(&["1.1.1.1", "2606:4700::1111"]),
        ];
        assert_eq!(answers, expected);
    }

    #[tokio::test]
    async fn localhost_is_refused_unless_private_endpoints_are_allowed() {
        let of_this_machine = async |allow_private_endpoints: bool| {
            let config = DestinationConfig { allow_private_endpoints, ..Default::default() };
            let resolver = GuardedResolver::new(SsrfGuard::new(&config), Arc::new(SystemResolver));
            resolve(&resolver, "localhost").await
        };
        assert!(!of_this_machine(true).await.unwrap().is_empty());
        assert_eq!(of_this_machine(false).await, Err(SsrfRefusal::Address));
    }
}
