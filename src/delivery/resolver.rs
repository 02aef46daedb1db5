//! Looks names up for the HTTP client and hands on only what the guard lets pass.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::ssrf_guard::SsrfGuard;

/// Name look-ups in flight at most. They block a thread each, of a pool that hashing and other
/// parts need too, for as long as a tenant's name server chooses.
const LOOKUPS_MAX: usize = 128;

/// Where names are looked up. Called on a thread that may block.
pub trait DnsResolver: Debug + Send + Sync {
    /// The addresses of a name; their ports say nothing.
    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>>;
}

/// Looks names up as every program of this system does.
#[derive(Debug)]
pub struct SystemResolver;

impl DnsResolver for SystemResolver {
    fn addresses(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        (name, 0).to_socket_addrs().map(Vec::from_iter)
    }
}

/// The HTTP client's resolver.
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
            // Tokio's own `lookup_host` cannot hold the permit for as long as the thread is blocked,
            // which is longer than this future when the attempt times out.
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

    /// Answers one look-up after the other.
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
    async fn every_look_up_is_checked_however_the_last_one_went() {
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
    async fn name_of_this_machine_is_refused_unless_private_endpoints_are_allowed() {
        let of_this_machine = async |allow_private_endpoints: bool| {
            let config = DestinationConfig { allow_private_endpoints, ..Default::default() };
            let resolver = GuardedResolver::new(SsrfGuard::new(&config), Arc::new(SystemResolver));
            resolve(&resolver, "localhost").await
        };
        assert!(!of_this_machine(true).await.unwrap().is_empty());
        assert_eq!(of_this_machine(false).await, Err(SsrfRefusal::Address));
    }
}
