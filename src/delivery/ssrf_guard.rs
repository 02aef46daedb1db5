//! The SSRF guard: keeps tenants from aiming webhooks at the operator's own network (server-side request
//! forgery).
//!
//! No single check is enough. A URL that was checked at registration may resolve to another address an hour
//! later; a name that was checked before the request may resolve to another one during it (DNS rebinding);
//! and a host written as an address is never resolved. So:
//!
//! - The guard checks every resolved address, at every new connection (`resolver.rs`). The client connects to
//!   the checked addresses and to no others.
//! - A host written as an address never reaches the resolver, so it is checked before sending.
//!   [`SsrfGuard::parse_url`] checks it at registration, too, so that the owner learns of it at once and not
//!   from failed deliveries. That check is a courtesy; the check before sending is the guard.
//! - No redirects are followed and no proxy is used (`sender.rs`): both would connect elsewhere.
//! - The spelling of a host makes no difference: `0x7f.1`, `2130706433` and full-width digits are addresses
//!   once the URL is parsed (<https://url.spec.whatwg.org/#host-parsing>), and the parsed URL is what is
//!   stored, checked and connected to.
//!
//! A name is rejected if any of its addresses is forbidden. Public and private addresses under one name are a
//! mistake or an attack, and which of them a connection uses is chance.
//!
//! An operator may allow networks (`ALLOW_ENDPOINT_NETWORKS`), the way to internal receivers: they still need
//! https. `ALLOW_PRIVATE_ENDPOINTS` disables the guard, for trying things out.
//!
//! Public means: not in the IANA registries of special-purpose addresses,
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

use crate::config::{DestinationConfig, Networks};
use crate::domain::{Endpoint, Violation};

/// Why a webhook was not sent. The tenant sees it, so it names no address: what a name resolves to inside the
/// operator's network must not leak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum SsrfRefusal {
    /// The URL is plain HTTP.
    #[error("the endpoint's URL must be https")]
    Scheme,
    /// The host is, or resolves to, a forbidden address.
    #[error("the endpoint leads to an address that is not public")]
    Address,
    /// The name has no addresses, or the URL has no host.
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
    /// A guard that allows public addresses and those allowed by the settings.
    pub fn new(config: &DestinationConfig) -> Self {
        Self {
            allow_private: config.allow_private_endpoints,
            networks: config.allow_endpoint_networks.clone(),
        }
    }

    /// Parses and checks the URL of an endpoint that is created or changed: the rules of
    /// [`Endpoint::parse_url`], and that the host is not written as a forbidden address.
    pub fn parse_url(&self, text: &str) -> Result<Url, Violation> {
        let url = Endpoint::parse_url(text, self.allow_private)?;
        match self.check_url(&url) {
            Ok(()) => Ok(url),
            Err(SsrfRefusal::Address) => {
                let rule = "must lead to a public address; others need ALLOW_ENDPOINT_NETWORKS or \
                            ALLOW_PRIVATE_ENDPOINTS";
                Err(Violation::new("url", "address", rule))
            }
            // Never in practice: a parsed URL has an allowed scheme and a host.
            Err(refusal @ (SsrfRefusal::Scheme | SsrfRefusal::NoAddress)) => {
                Err(Violation::new("url", "format", refusal.to_string()))
            }
        }
    }

    /// Checks the URL: its scheme, and its host if that is an address or `localhost`.
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

    /// Checks the addresses that a name resolved to.
    pub(super) fn check_all(&self, addresses: &[SocketAddr]) -> Result<(), SsrfRefusal> {
        if addresses.is_empty() {
            return Err(SsrfRefusal::NoAddress);
        }
        addresses.iter().try_for_each(|address| self.check(address.ip()))
    }

    fn check(&self, address: IpAddr) -> Result<(), SsrfRefusal> {
        let address = effective_address(address);
        let allowed = self.allow_private || is_public(address) || self.networks.contain(address);
        if allowed { Ok(()) } else { Err(SsrfRefusal::Address) }
    }
}

/// Names that always mean this machine (RFC 6761 section 6.3).
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

/// The only IPv6 block allocated for global unicast. Loopback, unspecified, unique-local, link-local,
/// site-local, multicast, discard-only and IPv4-compatible addresses all lie outside it.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// Blocks inside it that are not globally reachable, or tunnel to an IPv4 address.
const FORBIDDEN_V6: [Ipv6Net; 4] = [
    v6([0x2001, 0, 0], 23), // IETF protocol assignments: Teredo, benchmarking, ORCHID
    v6([0x2001, 0x0db8, 0], 32), // documentation
    v6([0x2002, 0, 0], 16), // 6to4
    v6([0x3fff, 0, 0], 20), // documentation
];

/// NAT64 (RFC 6052): the last 32 bits are the IPv4 address that the connection ends at. Hosts with IPv6 only
/// reach every IPv4 receiver this way, so it is as public as that address.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0], 96);

/// The address that a connection ends at: IPv4-mapped and NAT64 addresses count as their IPv4 address.
fn effective_address(address: IpAddr) -> IpAddr {
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
mod tests {
    use super::*;

    fn guard(allow_private_endpoints: bool, networks: &str) -> SsrfGuard {
        let allow_endpoint_networks = networks.parse().unwrap();
        SsrfGuard::new(&DestinationConfig { allow_private_endpoints, allow_endpoint_networks })
    }

    fn check(address: &str) -> Result<(), SsrfRefusal> {
        guard(false, "").check(address.parse().unwrap())
    }

    /// Forbidden blocks by kind: their first and last address, and well-known ones inside.
    const FORBIDDEN: &[(&str, &[&str])] = &[
        ("unspecified", &["0.0.0.0", "0.255.255.255", "::"]),
        ("loopback", &["127.0.0.0", "127.0.0.1", "127.255.255.255", "::1"]),
        (
            "private",
            &[
                "10.0.0.0",
                "10.255.255.255",
                "172.16.0.0",
                "172.31.255.255",
                "192.168.0.0",
                "192.168.255.255",
            ],
        ),
        ("link-local", &["169.254.0.0", "169.254.255.255", "fe80::", "fe80::1", "febf:ffff::"]),
        ("site-local", &["fec0::", "feff:ffff::"]),
        ("carrier-grade NAT", &["100.64.0.0", "100.127.255.255"]),
        ("multicast", &["224.0.0.0", "239.255.255.255", "ff00::", "ff02::1", "ff0e::1"]),
        (
            "documentation",
            &[
                "192.0.2.0",
                "192.0.2.255",
                "198.51.100.0",
                "198.51.100.255",
                "203.0.113.0",
                "203.0.113.255",
                "2001:db8::",
                "2001:db8:ffff::1",
                "3fff::",
                "3fff:fff::1",
            ],
        ),
        ("benchmarking", &["198.18.0.0", "198.19.255.255", "2001:2::", "2001:2:0:ffff::1"]),
        ("protocol assignments", &["192.0.0.0", "192.0.0.171", "192.0.0.255", "2001:1ff:ffff::1"]),
        ("reserved", &["240.0.0.0", "255.255.255.254", "4000::1", "e000::1"]),
        ("broadcast", &["255.255.255.255"]),
        (
            "metadata",
            &[
                "169.254.169.254",
                "169.254.170.2",
                "100.100.100.200",
                "168.63.129.16",
                "192.0.0.192",
                "fd00:ec2::254",
                "fd20:ce::254",
                "fd00:42::42",
            ],
        ),
        ("unique-local", &["fc00::", "fd12:3456::1", "fdff:ffff::1"]),
        (
            "v4-mapped",
            &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:7f00:1"],
        ),
        ("v4-compatible", &["::127.0.0.1", "::7f00:1", "::8.8.8.8"]),
        ("v4-translated", &["::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"]),
        ("NAT64", &["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254"]),
        ("local NAT64", &["64:ff9b:1::", "64:ff9b:1::8.8.8.8", "64:ff9b:1:ffff::1"]),
        ("6to4", &["2002:7f00:1::", "2002:808:808::1", "192.88.99.0", "192.88.99.255"]),
        ("Teredo", &["2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"]),
        ("ORCHID", &["2001:10::1", "2001:20::1"]),
        ("discard-only", &["100::1"]),
        ("segment routing", &["5f00::1"]),
    ];

    /// The neighbours of those blocks, and well-known public addresses.
    const PUBLIC: &[&str] = &[
        "1.0.0.0",
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.3.0",
        "192.88.98.255",
        "192.88.100.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "223.255.255.255",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2001:db7:ffff::1",
        "2001:db9::1",
        "2003::1",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "3ffe::1",
        "3fff:1000::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
    ];

    #[test]
    fn public_addresses_pass() {
        for address in PUBLIC {
            assert_eq!(check(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_refused() {
        for (kind, addresses) in FORBIDDEN {
            for address in *addresses {
                assert_eq!(check(address), Err(SsrfRefusal::Address), "{kind}: {address}");
            }
        }
    }

    /// Hosts as a tenant may write them, with the expected result.
    const HOSTS: &[(&str, &str)] = &[
        // Loopback in every spelling.
        ("127.0.0.1", "address"),
        ("127.0.0.1.", "address"),
        ("127.1", "address"),
        ("127.0.1", "address"),
        ("0x7f.1", "address"),
        ("0x7f000001", "address"),
        ("0x7F.0x00.0x00.0x01", "address"),
        ("0177.0.0.1", "address"),
        ("017700000001", "address"),
        ("2130706433", "address"),
        ("0", "address"),
        ("[::1]", "address"),
        ("[0:0:0:0:0:0:0:1]", "address"),
        ("[::ffff:7f00:1]", "address"),
        ("[::ffff:127.0.0.1]", "address"),
        ("[64:ff9b::7f00:1]", "address"),
        ("[::]", "address"),
        ("localhost", "address"),
        ("LOCALHOST", "address"),
        ("localhost.", "address"),
        ("hooks.localhost", "address"),
        ("hooks.localhost.", "address"),
        // Percent-encoded, full-width, circled and ideographic digits: the same address once parsed.
        ("%31%32%37%2e0.0.1", "address"),
        ("%6c%6fcalhost", "address"),
        ("\u{ff11}\u{ff12}\u{ff17}.0.0.1", "address"),
        ("127\u{3002}0\u{3002}0\u{3002}1", "address"),
        ("\u{2460}\u{2461}\u{2466}.0.0.1", "address"),
        ("\u{24db}\u{24de}calhost", "address"),
        ("loc\u{ad}alhost", "address"),
        // Ports do not matter, except port 0, on which nothing can listen.
        ("127.0.0.1:8443", "address"),
        ("1.1.1.1:0", "port"),
        ("example.com:0", "port"),
        ("example.com:65536", "format"),
        ("example.com:-1", "format"),
        // Text before an @ is not a host.
        ("example.com@127.0.0.1", "format"),
        ("127.0.0.1@example.com", "format"),
        ("user:password@example.com", "format"),
        (":@example.com", "ok"),
        // No host, or an invalid one.
        ("256.1.1.1", "format"),
        ("1.2.3.4.5", "format"),
        ("0x100000000", "format"),
        ("[fe80::1%25eth0]", "format"),
        ("[::1", "format"),
        ("exa mple.com", "format"),
        ("exa%00mple.com", "format"),
        ("example.com%2f@127.0.0.1", "format"),
        // Hosts that webhooks are sent to.
        ("example.com", "ok"),
        ("example.com.", "ok"),
        ("EXAMPLE.com:8443", "ok"),
        ("b\u{fc}cher.example", "ok"),
        ("localhost.example.com", "ok"),
        ("notlocalhost", "ok"),
        ("1.1.1.1", "ok"),
        ("16843009", "ok"),
        ("[2606:4700:4700::1111]:8443", "ok"),
        ("[::ffff:1.1.1.1]", "ok"),
        ("[64:ff9b::1.1.1.1]", "ok"),
    ];

    #[test]
    fn host_is_judged_by_its_address_however_it_is_written() {
        let guard = guard(false, "");
        let judged = |host: &'static str| match guard.parse_url(&format!("https://{host}/hook")) {
            Ok(_) => (host, "ok"),
            Err(violation) => (host, violation.code),
        };
        let found: Vec<_> = HOSTS.iter().map(|(host, _)| judged(host)).collect();
        let wrong: Vec<_> = found.iter().zip(HOSTS).filter(|(found, host)| found != host).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn url_refused_at_registration_is_refused_when_sending() {
        let guard = guard(false, "");
        for (host, _) in HOSTS.iter().filter(|(_, expected)| *expected == "address") {
            let url = format!("https://{host}/hook").parse().unwrap();
            assert_eq!(guard.check_url(&url), Err(SsrfRefusal::Address), "{host}");
        }
        assert_eq!(guard.check_url(&"http://1.1.1.1/".parse().unwrap()), Err(SsrfRefusal::Scheme));
    }

    #[test]
    fn only_https_is_accepted() {
        let code = |url: &str| guard(false, "").parse_url(url).map_err(|violation| violation.code);
        for url in ["http://1.1.1.1/", "http://10.0.0.1/", "ftp://1.1.1.1/", "file:///etc/passwd"] {
            assert_eq!(code(url), Err("scheme"), "{url}");
        }
    }

    #[test]
    fn allowed_networks_still_need_https() {
        let guard = guard(false, "10.1.0.0/16,127.0.0.2,fd00:1::/32");
        let inside = ["10.1.0.1", "10.1.255.255", "127.0.0.2", "fd00:1::7"];
        let written = ["::ffff:10.1.0.1", "64:ff9b::10.1.0.1"];
        for address in inside.iter().chain(&written) {
            assert_eq!(guard.check(address.parse().unwrap()), Ok(()), "{address}");
        }
        for address in ["10.2.0.1", "127.0.0.1", "fd00:2::7", "::10.1.0.1", "2002:a01:1::"] {
            assert_eq!(
                guard.check(address.parse().unwrap()),
                Err(SsrfRefusal::Address),
                "{address}"
            );
        }
        assert!(guard.parse_url("https://10.1.0.1/").is_ok());
        assert_eq!(guard.parse_url("http://10.1.0.1/").unwrap_err().code, "scheme");
        assert_eq!(guard.parse_url("https://localhost/").unwrap_err().code, "address");
        assert!(self::guard(false, "127.0.0.0/8").parse_url("https://localhost/").is_ok());
    }

    #[test]
    fn private_endpoints_may_be_allowed() {
        let guard = guard(true, "");
        for url in ["http://127.0.0.1:9000/", "https://localhost/", "http://[fd00::1]/"] {
            assert!(guard.parse_url(url).is_ok(), "{url}");
        }
        assert_eq!(guard.parse_url("http://127.0.0.1:0/").unwrap_err().code, "port");
    }

    #[test]
    fn one_forbidden_address_rejects_the_name() {
        let guard = guard(false, "");
        let public: SocketAddr = "8.8.8.8:0".parse().unwrap();
        let private: SocketAddr = "10.0.0.1:0".parse().unwrap();
        assert_eq!(guard.check_all(&[public]), Ok(()));
        assert_eq!(guard.check_all(&[public, private]), Err(SsrfRefusal::Address));
        assert_eq!(guard.check_all(&[private, public]), Err(SsrfRefusal::Address));
        assert_eq!(guard.check_all(&[]), Err(SsrfRefusal::NoAddress));
    }
}
