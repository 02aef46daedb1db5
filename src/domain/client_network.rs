//! Client networks: the addresses that count as one client in limits by address.

use std::net::{IpAddr, Ipv6Addr};

/// An IPv4 address, or the 64-bit network of an IPv6 address: a client with one address of a network can use
/// all of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClientNetwork(IpAddr);

/// The mask of the network part of an IPv6 address (RFC 4291 section 2.5.4).
const NETWORK_BITS: u128 = !0 << 64;

impl ClientNetwork {
    /// The network of an address. IPv4-mapped IPv6 addresses count as IPv4.
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

    fn network(text: &str) -> ClientNetwork {
        ClientNetwork::of(text.parse().unwrap())
    }

    #[test]
    fn ipv6_network_is_one_client_and_so_is_a_mapped_ipv4_address() {
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::"));
        assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
