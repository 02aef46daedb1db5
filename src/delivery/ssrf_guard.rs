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

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use url::{Host, Url};

use super::public_address::{effective_address, is_public};
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

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allow_private_endpoints: bool, networks: &str) -> SsrfGuard {
        let allow_endpoint_networks = networks.parse().unwrap();
        SsrfGuard::new(&DestinationConfig { allow_private_endpoints, allow_endpoint_networks })
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
