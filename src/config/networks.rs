//! Lists of networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

/// A list of at most 64 networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

impl Networks {
    /// Maximum networks: every check of an address walks the list.
    const COUNT_MAX: usize = 64;

    /// Whether the address is in one of the networks.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for Networks {
    type Err = String;

    /// An empty text is an empty list; an address stands for the network with only that address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |text: &str| {
            text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(
                |_| {
                    format!(
                        "{text:?} is not a network; write networks such as 10.1.0.0/16 or fd00::/8"
                    )
                },
            )
        };
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let networks = words.map(parse).collect::<Result<Vec<_>, _>>()?;
        if networks.len() > Self::COUNT_MAX {
            return Err("must list at most 64 networks".to_owned());
        }
        Ok(Self(networks.into()))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_listed_with_commas_and_an_address_is_one() {
        let networks: Networks = "10.1.0.0/16, 192.168.7.7,fd00::/8,".parse().unwrap();
        for inside in ["10.1.255.255", "192.168.7.7", "fd12::1"] {
            assert!(networks.contain(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.2.0.0", "192.168.7.8", "fe00::1", "::ffff:10.1.0.1"] {
            assert!(!networks.contain(outside.parse().unwrap()), "{outside}");
        }
        assert_eq!(networks.to_string(), "10.1.0.0/16,192.168.7.7/32,fd00::/8");
        assert_eq!("".parse::<Networks>().unwrap(), Networks::default());
        assert!("10.0.0.0/33".parse::<Networks>().is_err());
        assert!("example.com".parse::<Networks>().unwrap_err().contains("example.com"));
        assert!(vec!["10.0.0.0/8"; 65].join(",").parse::<Networks>().is_err());
    }
}
