//! The HTTP client's resolver: hands out the addresses that came with the request, checked by the SSRF guard.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::delivery::ssrf_guard::SsrfGuard;

tokio::task_local! {
    /// The host of the request that the task makes.
    static HOST: Option<PinnedHost>;
}

/// A host name and the addresses that it was looked up to.
#[derive(Clone, Debug)]
pub(in crate::delivery) struct PinnedHost {
    pub(in crate::delivery) name: Arc<str>,
    pub(in crate::delivery) addresses: Arc<[SocketAddr]>,
}

/// The client needs addresses that the request does not have. Nothing was sent.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the name has not been looked up")]
pub(in crate::delivery) struct HostUnknown;

/// Makes a request whose new connections go to this host's addresses and nowhere else.
pub(in crate::delivery) async fn with_host<F: Future>(
    host: Option<PinnedHost>,
    request: F,
) -> F::Output {
    HOST.scope(host, request).await
}

/// Resolves the host of the request that is being made, and nothing else.
#[derive(Clone, Debug)]
pub(in crate::delivery) struct PinnedResolver(SsrfGuard);

impl PinnedResolver {
    pub(in crate::delivery) const fn new(guard: SsrfGuard) -> Self {
        Self(guard)
    }
}

impl Resolve for PinnedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        // A connection that the client goes on opening in the background, because the request found another one,
        // has its addresses already, or asks outside the task and gets none.
        let host = HOST.try_with(Clone::clone).ok().flatten();
        let guard = self.0.clone();
        Box::pin(async move {
            let host = host.filter(|host| host.name.eq_ignore_ascii_case(name.as_str()));
            let addresses = host.ok_or(HostUnknown)?.addresses;
            guard.check_all(&addresses)?;
            // Owned, since the client's iterator outlives this future.
            let addresses: Vec<SocketAddr> = addresses.iter().copied().collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::DestinationConfig;

    use super::*;
    use crate::delivery::ssrf_guard::SsrfRefusal;

    fn resolver() -> PinnedResolver {
        PinnedResolver::new(SsrfGuard::new(&DestinationConfig::default()))
    }

    fn host(addresses: &[&str]) -> PinnedHost {
        let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), 0);
        PinnedHost {
            name: "hooks.example".into(),
            addresses: addresses.iter().map(address).collect(),
        }
    }

    async fn resolve(
        host: Option<PinnedHost>,
        name: &str,
    ) -> Result<Vec<String>, reqwest_error::Box> {
        let resolver = resolver();
        let addresses = with_host(host, async { resolver.resolve(name.parse().unwrap()).await });
        Ok(addresses.await?.map(|address| address.ip().to_string()).collect())
    }

    /// The client's type of errors.
    mod reqwest_error {
        pub(super) type Box = std::boxed::Box<dyn std::error::Error + Send + Sync>;
    }

    #[tokio::test]
    async fn every_address_of_an_answer_is_checked_at_every_connection() {
        let cases: [(&[&str], Option<SsrfRefusal>); 9] = [
            (&["1.1.1.1"], None),
            (&["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"], None),
            (&["127.0.0.1"], Some(SsrfRefusal::Address)),
            (&["1.1.1.1", "10.0.0.1"], Some(SsrfRefusal::Address)),
            (&["10.0.0.1", "1.1.1.1"], Some(SsrfRefusal::Address)),
            (&["::ffff:10.0.0.1"], Some(SsrfRefusal::Address)),
            (&["64:ff9b::10.0.0.1"], Some(SsrfRefusal::Address)),
            (&["1.1.1.1", "fd00::1"], Some(SsrfRefusal::Address)),
            (&[], Some(SsrfRefusal::NoAddress)),
        ];
        for (addresses, refusal) in cases {
            let resolved = resolve(Some(host(addresses)), "hooks.example").await;
            match (resolved, refusal) {
                (Ok(resolved), None) => assert_eq!(resolved, addresses),
                (Err(error), Some(refusal)) => {
                    assert_eq!(error.downcast_ref(), Some(&refusal), "{addresses:?}");
                }
                (resolved, refusal) => panic!("{addresses:?}: {resolved:?}, not {refusal:?}"),
            }
        }
    }

    #[tokio::test]
    async fn name_of_another_host_or_outside_of_a_request_is_unknown() {
        let is_unknown = |error: reqwest_error::Box| error.is::<HostUnknown>();
        let known = || Some(host(&["1.1.1.1"]));
        assert_eq!(resolve(known(), "HOOKS.example").await.unwrap(), ["1.1.1.1"]);
        assert!(resolve(known(), "other.example").await.is_err_and(is_unknown));
        assert!(resolve(None, "hooks.example").await.is_err_and(is_unknown));
        let outside = resolver().resolve("hooks.example".parse().unwrap()).await;
        assert!(outside.map(|_| ()).is_err_and(is_unknown));
    }
}
