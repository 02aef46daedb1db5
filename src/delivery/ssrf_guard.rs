//! Keeps tenants from aiming webhooks at the operator's own network (server-side request forgery).
//!
//! No single check holds. A URL checked when it is registered may resolve elsewhere an hour later; a
//! name checked before the request may resolve elsewhere within it (DNS rebinding); and a name never
//! comes up for an address written as the host. So:
//!
//! - Names are resolved under its eyes (`resolver.rs`), at every new connection. The client connects to
//!   the addresses that were checked and to no others.
//! - An address written as the host never reaches a resolver, so it is checked before sending.
//!   [`SsrfGuard::parse_url`] refuses it when the endpoint is registered, too, so that its owner learns of
//!   it at once and not from deliveries that fail. That one is a courtesy; this one is the guard.
//! - Redirects are not followed and no proxy is used (`sender.rs`): both would connect elsewhere.
//! - How a host is written makes no difference: `0x7f.1`, `2130706433` and full-width digits are
//!   addresses once the URL is parsed (<https://url.spec.whatwg.org/#host-parsing>), and it is the
//!   parsed URL that is stored, checked and connected to.
//!
//! One forbidden address refuses the whole name. A name with public and private addresses is a mistake or
//! an attack, and which of them a connection ends up at is chance.
//!
//! An operator may allow some networks (`ALLOW_ENDPOINT_NETWORKS`), which is the way to receivers
//! inside: they still need https. `ALLOW_PRIVATE_ENDPOINTS` takes the guard away; it is for trying
//! things out.
//!
//! What is not public follows the IANA registries of special-purpose addresses,
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

use crate::config::{DestinationConfig, Networks};
use crate::domain::{Endpoint, Violation};

/// Why a webhook was not sent. It goes to the tenant, so it tells no address: what a name inside the
/// operator's network resolves to is nobody's business.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum SsrfRefusal {
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

/// Decides where webhooks may go.
#[derive(Clone, Debug)]
pub struct SsrfGuard {
    allow_private: bool,
    networks: Networks,
}

impl SsrfGuard {
    /// A guard that lets pass what is public and what these settings allow.
    pub fn new(config: &DestinationConfig) -> Self {
        Self {
            allow_private: config.allow_private_endpoints,
            networks: config.allow_endpoint_networks.clone(),
        }
    }

    /// Parses the URL of an endpoint that is created or changed and checks all that can be told
    /// before any delivery: what [`Endpoint::parse_url`] asks for, and that the host is not written
    /// as an address that webhooks must not go to.
    pub fn parse_url(&self, text: &str) -> Result<Url, Violation> {
        let url = Endpoint::parse_url(text, self.allow_private)?;
        match self.check_url(&url) {
            Ok(()) => Ok(url),
            Err(SsrfRefusal::Address) => {
                let rule = "must lead to a public address; others need ALLOW_ENDPOINT_NETWORKS or \
                            ALLOW_PRIVATE_ENDPOINTS";
                Err(Violation::new("url", "address", rule))
            }
            // Never in practice: a URL that was parsed has a scheme that is allowed, and a host.
            Err(refusal @ (SsrfRefusal::Scheme | SsrfRefusal::NoAddress)) => {
                Err(Violation::new("url", "format", refusal.to_string()))
            }
        }
    }

    /// Checks what the URL alone tells: its scheme, and its host where that is an address or a name
    /// that stands for one.
    pub(super) fn check_url(&self, url: &Url) -> Result<(), SsrfRefusal> {
        if self.allow_private {
            return Ok(());
        }
        if url.scheme() != "https" {
            return Err(SsrfRefusal::Scheme);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check(address.into()),
            Some(Host::Ipv6(address)) => self.check(address.into()),
            Some(Host::Domain(name)) if is_localhost(name) => {
                self.check(Ipv4Addr::LOCALHOST.into())
            }
            Some(Host::Domain(_)) => Ok(()),
            None => Err(SsrfRefusal::NoAddress),
        }
    }

    /// Checks what a name resolved to.
    pub(super) fn check_all(&self, addresses: &[SocketAddr]) -> Result<(), SsrfRefusal> {
        if addresses.is_empty() {
            return Err(SsrfRefusal::NoAddress);
        }
        addresses.iter().try_for_each(|address| self.check(address.ip()))
    }

    fn check(&self, address: IpAddr) -> Result<(), SsrfRefusal> {
        let address = end_of(address);
        let allowed = self.allow_private || is_public(address) || self.networks.contain(address);
        if allowed { Ok(()) } else { Err(SsrfRefusal::Address) }
    }
}

/// Names that mean this machine whatever a name server says (RFC 6761 section 6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// IPv4 blocks that are not globally reachable, and the multicast and reserved ones.
const FORBIDDEN_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),        // this network, "unspecified"
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // shared by carrier-grade NAT; Alibaba's metadata
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // public by its number, but where Azure serves its metadata
    v4(169, 254, 0, 0, 16),   // link-local, where clouds serve their metadata
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // IETF protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays, deprecated
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved
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

/// The address that a connection ends at: what is mapped or translated is judged as what it stands
/// for.
fn end_of(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if NAT64.contains(&v6) {
        let [.., a, b, c, d] = v6.octets();
        return Ipv4Addr::new(a, b, c, d).into();
    }
    v6.to_ipv4_mapped().map_or(address, IpAddr::V4)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !FORBIDDEN_V4.iter().any(|block| block.contains(&v4)),
        IpAddr::V6(v6) => {
            GLOBAL_V6.contains(&v6) && !FORBIDDEN_V6.iter().any(|block| block.contains(&v6))
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6([a, b, c]: [u16; 3], bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

#[cfg(test)]
#[path = "ssrf_guard_tests.rs"]
mod tests;
