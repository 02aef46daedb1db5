//! The client's IP address: the peer's, or the one that trusted proxies report.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Once;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::Networks;

/// What proxies write the addresses of clients into.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the client whose request came from `peer`.
///
/// Each proxy appends the address it got the request from to `X-Forwarded-For`. The list is therefore
/// read from its end, as long as trusted proxies wrote it: anybody may have written what stands
/// before the first address that is not a trusted proxy's.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut client = peer.to_canonical();
    if !trusted.contain(client) {
        if headers.contains_key(X_FORWARDED_FOR) {
            warn_once(client);
        }
        return client;
    }
    let lines: Vec<&HeaderValue> = headers.get_all(X_FORWARDED_FOR).iter().collect();
    let words = lines.into_iter().rev().flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
    for word in words {
        // A reliable proxy writes nothing but addresses.
        let Some(before) = parse(word) else { break };
        client = before;
        if !trusted.contain(client) {
            break;
        }
    }
    client
}

/// Warns once per process about a proxy that is not listed: every client behind it counts as one.
fn warn_once(peer: IpAddr) {
    static WARNED: Once = Once::new();
    WARNED.call_once(|| {
        tracing::warn!(
            %peer,
            "ignoring X-Forwarded-For of a peer outside TRUSTED_PROXIES; if it is a proxy of yours, list its \
             network there, or its clients share one address"
        );
    });
}

/// Parses an address with or without a port, which some proxies add, and an IPv6 address with or
/// without brackets.
fn parse(word: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(word).ok()?.trim();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok();
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()));
    Some(address.or_else(|| bracketed().map(IpAddr::V6))?.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&'static str]) -> String {
        let trusted: Networks = "10.0.0.0/8,::1".parse().unwrap();
        let lines = forwarded.iter().map(|line| (X_FORWARDED_FOR, HeaderValue::from_static(line)));
        let headers: HeaderMap = lines.collect::<Vec<_>>().into_iter().fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        );
        address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_a_trusted_proxys_word_counts() {
        assert_eq!(client("192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("::1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_passed_over() {
        for (written, address) in [
            ("203.0.113.7:4711", "203.0.113.7"),
            ("1.1.1.1:80, 203.0.113.7:4711, 10.0.0.2:9", "203.0.113.7"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("[::ffff:203.0.113.7]:4711", "203.0.113.7"),
            ("2001:db8::1:4711", "2001:db8::1:4711"),
        ] {
            assert_eq!(client("10.0.0.1", &[written]), address, "{written}");
        }
        for wrong in
            ["203.0.113.7:", "203.0.113.7:x", "[203.0.113.7]", "[2001:db8::1", "[]:1", ":1"]
        {
            assert_eq!(client("10.0.0.1", &[wrong]), "10.0.0.1", "{wrong}");
        }
    }

    #[test]
    fn list_is_read_from_its_end_as_far_as_it_can_be_trusted() {
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1", &["10.0.0.3,10.0.0.2"]), "10.0.0.3");
        assert_eq!(client("10.0.0.1", &["198.51.100.7, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["198.51.100.7, unknown, 10.0.0.2"]), "10.0.0.2");
    }
}
