//! Settings of host name resolution.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::parse_wait;

/// How the host names of endpoints are resolved.
#[derive(Args, Clone, Debug)]
pub struct DnsConfig {
    /// Name servers, such as 10.0.0.2,[fd00::2]:5353; empty: the system's, with its search domains. The
    /// hosts file is read in either case
    #[arg(
        long,
        env = "DNS_SERVERS",
        value_name = "ADDRESSES",
        default_value = "",
        hide_default_value = true
    )]
    pub dns_servers: DnsServers,
    /// Timeout for looking up a host name
    #[arg(long, env = "DNS_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub dns_timeout: Duration,
}

/// A list of at most 8 name servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServers(Arc<[SocketAddr]>);

impl DnsServers {
    /// Maximum servers. A look-up asks them two at a time, so those behind are never asked within its time.
    const COUNT_MAX: usize = 8;
    /// The port of a server that names none.
    const PORT: u16 = 53;

    /// The servers, in the order in which they are written; empty if the system's are to be used.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.0
    }
}

impl FromStr for DnsServers {
    type Err = String;

    /// An empty text is an empty list.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let servers = words.map(parse_server).collect::<Result<Vec<_>, _>>()?;
        if servers.len() > Self::COUNT_MAX {
            return Err("must list at most 8 name servers".to_owned());
        }
        Ok(Self(servers.into()))
    }
}

fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = text.parse().ok().filter(|address: &SocketAddr| address.port() != 0);
    let server = address.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, DnsServers::PORT));
    with_port.or(server).ok_or_else(|| {
        format!("{text:?} is not the address of a name server; write 10.0.0.2 or [fd00::2]:5353")
    })
}

impl fmt::Display for DnsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{server}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_listed_with_commas_and_have_port_53_unless_they_name_one() {
        let servers: DnsServers =
            "10.0.0.2, 127.0.0.1:5353,fd00::2,[::1],[::1]:54,".parse().unwrap();
        let written = "10.0.0.2:53,127.0.0.1:5353,[fd00::2]:53,[::1]:53,[::1]:54";
        assert_eq!(servers.to_string(), written);
        assert_eq!(written.parse::<DnsServers>().unwrap(), servers);
        assert_eq!("".parse::<DnsServers>().unwrap(), DnsServers::default());
    }

    #[test]
    fn names_and_invalid_ports_are_refused() {
        for text in ["dns.example", "10.0.0.2:0", "10.0.0.2:70000", "10.0.0", "fd00::2:5353x"] {
            let error = text.parse::<DnsServers>().unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        assert!(["10.0.0.2"; 9].join(",").parse::<DnsServers>().is_err());
    }
}
