//! Addresses that count as one client.

use std::net::{IpAddr, Ipv6Addr};

/// What is counted against one client: an IPv4 address, or the 64 bits of an IPv6 address that name
/// a network, since whoever has one address in it has them all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientNetwork(IpAddr);

/// Leaves the network part of an IPv6 address (RFC 4291 section 2.5.4).
const NETWORK_BITS: u128 = !0 << 64;

impl ClientNetwork {
    /// The block of an address. IPv4 in IPv6's clothes counts as IPv4.
    pub const fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(IpAddr::V4(address)),
            IpAddr::V6(address) => {
                Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK_BITS)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> ClientNetwork {
        ClientNetwork::of(text.parse().unwrap())
    }

    #[test]
    fn ipv6_network_is_one_client_and_so_is_an_ipv4_address_however_it_is_written() {
        assert_eq!(block("2001:db8:1:2:3:4:5:6"), block("2001:db8:1:2::"));
        assert_ne!(block("2001:db8:1:2::"), block("2001:db8:1:3::"));
        assert_eq!(block("::ffff:192.0.2.1"), block("192.0.2.1"));
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
    }
}
