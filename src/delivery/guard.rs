//! Keeps tenants from aiming webhooks at the operator's own network (server-side request forgery).
//!
//! No single check holds. A URL checked when it is registered may resolve elsewhere an hour later; a
//! name checked before the request may resolve elsewhere within it (DNS rebinding); and a name never
//! comes up for an address written as the host. So:
//!
//! - Names are resolved here, as the HTTP client's own resolver, at every new connection. The client
//!   connects to the addresses that were checked and to no others.
//! - An address written as the host never reaches a resolver, so it is checked before sending.
//!   [`parse_endpoint_url`] refuses it when the endpoint is registered, too, so that its owner learns of
//!   it at once and not from deliveries that fail. That one is a courtesy; this one is the guard.
//! - Redirects are not followed and no proxy is used (`sender.rs`): both would connect elsewhere.
//!
//! One forbidden address refuses the whole name. A name with public and private addresses is a mistake or
//! an attack, and which of them a connection ends up at is chance.
//!
//! What is not public follows the IANA registries of special-purpose addresses,
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use url::{Host, Url};

use crate::domain::{Endpoint, Violation};

/// Name look-ups under way at the most. They block a thread each, of a pool that hashing and other
/// parts need too, for as long as a tenant's name server chooses.
const LOOKUPS_MAX: usize = 128;

/// Why a webhook was not sent. It goes to the tenant, so it tells no address: what a name inside the
/// operator's network resolves to is nobody's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Plain HTTP.
    #[error("the endpoint's URL must be https")]
    Scheme,
    /// A forbidden address, as the host or behind its name.
    #[error("the endpoint leads to an address that is not public")]
    Address,
    /// A name without addresses, or a URL without a host.
    #[error("the endpoint's host has no address")]
    NoAddress,
}

/// Parses the URL of an endpoint that is created or changed and checks all that can be told before
/// any delivery: what [`Endpoint::parse_url`] asks for, and that the host is not written as an address
/// that is not public. Both are milder where private endpoints are allowed.
pub fn parse_endpoint_url(text: &str, allow_private: bool) -> Result<Url, Violation> {
    let url = Endpoint::parse_url(text, allow_private)?;
    match Guard::new(allow_private).check_url(&url) {
        Ok(()) => Ok(url),
        Err(Refusal::Address) => {
            let rule = "must lead to a public address; others need ALLOW_PRIVATE_ENDPOINTS=true";
            Err(Violation::new("url", "address", rule))
        }
        // Never in practice: a URL that was parsed has a scheme that is allowed, and a host.
        Err(refusal @ (Refusal::Scheme | Refusal::NoAddress)) => {
            Err(Violation::new("url", "format", refusal.to_string()))
        }
    }
}

/// Decides where webhooks may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    allow_private: bool,
}

impl Guard {
    /// A guard that lets everything pass when `allow_private` is set.
    pub(super) const fn new(allow_private: bool) -> Self {
        Self { allow_private }
    }

    /// Checks what the URL alone tells: its scheme, and its host where that is an address.
    pub(super) fn check_url(self, url: &Url) -> Result<(), Refusal> {
        if self.allow_private {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(Refusal::Scheme);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into()),
            Some(Host::Ipv6(address)) => self.check(address.into()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Refusal::NoAddress),
        }
    }

    /// Checks what a name resolved to.
    fn check_all(self, addresses: &[SocketAddr]) -> Result<(), Refusal> {
        if addresses.is_empty() {
            return Err(Refusal::NoAddress);
        }
        addresses.iter().try_for_each(|address| self.check(address.ip()))
    }

    fn check(self, address: IpAddr) -> Result<(), Refusal> {
        let allowed = self.allow_private
            || match address {
                IpAddr::V4(v4) => is_public_v4(v4),
                IpAddr::V6(v6) => is_public_v6(v6),
            };
        if allowed { Ok(()) } else { Err(Refusal::Address) }
    }
}

/// Resolves names for the HTTP client and hands on only what the guard lets pass.
#[derive(Clone, Debug)]
pub(super) struct GuardedResolver {
    guard: Guard,
    lookups: Arc<Semaphore>,
}

impl GuardedResolver {
    pub(super) fn new(guard: Guard) -> Self {
        Self { guard, lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { guard, lookups } = self.clone();
        Box::pin(async move {
            let permit = lookups.acquire_owned().await?;
            // Tokio's own `lookup_host` does the same but cannot hold the permit for as long as the
            // thread is blocked, which is longer than this future when the attempt times out.
            let lookup = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                // The client fills in the port.
                (name.as_str(), 0).to_socket_addrs().map(Vec::from_iter)
            });
            let addresses = lookup.await??;
            guard.check_all(&addresses)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// IPv4 blocks that are not globally reachable, and the multicast and reserved ones.
const FORBIDDEN_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),       // this network, "unspecified"
    v4(10, 0, 0, 0, 8),      // private
    v4(100, 64, 0, 0, 10),   // shared by carrier-grade NAT
    v4(127, 0, 0, 0, 8),     // loopback
    v4(169, 254, 0, 0, 16),  // link-local, where clouds serve their metadata
    v4(172, 16, 0, 0, 12),   // private
    v4(192, 0, 0, 0, 24),    // IETF protocol assignments
    v4(192, 0, 2, 0, 24),    // documentation
    v4(192, 88, 99, 0, 24),  // 6to4 relays, deprecated
    v4(192, 168, 0, 0, 16),  // private
    v4(198, 18, 0, 0, 15),   // benchmarking
    v4(198, 51, 100, 0, 24), // documentation
    v4(203, 0, 113, 0, 24),  // documentation
    v4(224, 0, 0, 0, 4),     // multicast
    v4(240, 0, 0, 0, 4),     // reserved
    v4(255, 255, 255, 255, 32),
];

/// The only IPv6 block handed out for global unicast. Loopback, unspecified, unique-local, link-local,
/// site-local, multicast, discard-only and IPv4-compatible addresses all lie outside it.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// Blocks inside it that are not globally reachable, or lead to an IPv4 address by a tunnel.
const FORBIDDEN_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23), // IETF protocol assignments: Teredo, benchmarking, ORCHID
    v6([0x2001, 0x0db8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16), // 6to4
    v6([0x3fff, 0, 0], 20), // documentation
];

/// NAT64 (RFC 6052): the last 32 bits are the IPv4 address that the connection ends at. It is how
/// a host with IPv6 alone reaches every IPv4 receiver, so it is as public as what it leads to.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

fn is_public_v4(address: Ipv4Addr) -> bool {
    !FORBIDDEN_V4.iter().any(|block| block.contains(&address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    if NAT64.contains(&address) {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    GLOBAL_V6.contains(&address) && !FORBIDDEN_V6.iter().any(|block| block.contains(&address))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6([a, b, c]: [u16; 3], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARD: Guard = Guard::new(false);

    fn check(address: &str) -> Result<(), Refusal> {
        GUARD.check(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_pass() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.0.3.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "2001:4860:4860::8888",
            "2001:200::1",
            "3ffe::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ];
        for address in public {
            assert_eq!(check(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let forbidden = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.171",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::127.0.0.1",
            "::8.8.8.8",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            "100::1",
            "5f00::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::1",
            "64:ff9b:1::8.8.8.8",
        ];
        for address in forbidden {
            assert_eq!(check(address), Err(Refusal::Address), "{address}");
        }
    }

    #[test]
    fn hosts_written_as_addresses_are_checked_in_every_spelling() {
        let loopback = [
            "127.0.0.1",
            "127.1",
            "0x7f.1",
            "2130706433",
            "017700000001",
            "[::1]",
            "[::ffff:7f00:1]",
        ];
        for host in loopback {
            let url: Url = format!("https://{host}:8443/hook").parse().unwrap();
            assert_eq!(GUARD.check_url(&url), Err(Refusal::Address), "{host}");
            assert_eq!(Guard::new(true).check_url(&url), Ok(()), "{host}");
        }
        assert_eq!(GUARD.check_url(&"https://1.1.1.1/".parse().unwrap()), Ok(()));
        assert_eq!(GUARD.check_url(&"https://example.com/".parse().unwrap()), Ok(()));
        let plain = "http://example.com/".parse().unwrap();
        assert_eq!(GUARD.check_url(&plain), Err(Refusal::Scheme));
        assert_eq!(Guard::new(true).check_url(&plain), Ok(()));
    }

    #[test]
    fn an_endpoints_url_is_refused_by_the_same_table() {
        let code = |url: &str| parse_endpoint_url(url, false).map_err(|violation| violation.code);
        for host in ["127.0.0.1", "0x7f.1", "[::1]", "[::ffff:a00:1]", "169.254.169.254"] {
            let url = format!("https://{host}/hook");
            assert_eq!(code(&url), Err("address"), "{host}");
            assert!(parse_endpoint_url(&url, true).is_ok(), "{host}");
        }
        for url in ["https://1.1.1.1/", "https://example.com/", "https://localhost/"] {
            assert!(code(url).is_ok(), "{url}");
        }
        assert_eq!(code("http://10.0.0.1/"), Err("scheme"));
        assert_eq!(code("https:///x y"), Err("format"));
    }

    #[test]
    fn one_forbidden_address_refuses_the_whole_name() {
        let public: SocketAddr = "8.8.8.8:0".parse().unwrap();
        let private: SocketAddr = "10.0.0.1:0".parse().unwrap();
        assert_eq!(GUARD.check_all(&[public]), Ok(()));
        assert_eq!(GUARD.check_all(&[public, private]), Err(Refusal::Address));
        assert_eq!(GUARD.check_all(&[]), Err(Refusal::NoAddress));
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_loopback_is_refused_unless_private_endpoints_are_allowed() {
        let resolve = async |allow_private: bool| {
            let name = "localhost".parse().unwrap();
            GuardedResolver::new(Guard::new(allow_private)).resolve(name).await
        };
        assert!(resolve(true).await.unwrap().all(|address| address.ip().is_loopback()));
        let Err(error) = resolve(false).await else { panic!("must be refused") };
        assert_eq!(error.downcast_ref::<Refusal>(), Some(&Refusal::Address));
    }
}
