//! Which IP addresses are public: what the SSRF guard lets webhooks go to.
//!
//! Public means: not in the IANA registries of special-purpose addresses,
//! <https://www.iana.org/assignments/iana-ipv4-special-registry> and
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

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
pub(super) fn effective_address(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    if NAT64.contains(&v6) {
        let [.., a, b, c, d] = v6.octets();
        return Ipv4Addr::new(a, b, c, d).into();
    }
    v6.to_ipv4_mapped().map_or(address, IpAddr::V4)
}

/// Whether an effective address is public.
pub(super) fn is_public(address: IpAddr) -> bool {
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

    fn passes(address: &str) -> bool {
        is_public(effective_address(address.parse().unwrap()))
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
            assert!(passes(address), "{address}");
        }
    }

    #[test]
    fn special_purpose_addresses_are_refused() {
        for (kind, addresses) in FORBIDDEN {
            for address in *addresses {
                assert!(!passes(address), "{kind}: {address}");
            }
        }
    }
}
