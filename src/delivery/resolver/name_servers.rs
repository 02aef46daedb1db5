//! Name servers: resolves names by the hosts file, and by asking servers over UDP, or TCP for long answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use crate::config::DnsConfig;
use crate::runtime::Stopwatch;

use super::{
    ABSENCE_TTL_MAX, ANSWER_TTL_MAX, ANSWER_TTL_MIN, DnsAnswer, DnsResolver, FAILURE_TTL,
    LookupError,
};

/// The files of the system. A change takes effect without a restart, as it does for programs that resolve with
/// the C library.
const FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];
/// How often to look whether they have changed.
const FILES_POLL: Duration = Duration::from_secs(5);

/// Resolves names with the servers of the settings or the system, and the hosts file.
#[derive(Debug)]
pub struct NameServers {
    config: DnsConfig,
    current: Mutex<Current>,
}

/// The servers and the hosts file as they were when their files were last read.
#[derive(Debug)]
struct Current {
    resolver: Arc<Resolver>,
    modified: [Option<SystemTime>; FILES.len()],
    looked: Stopwatch,
}

#[derive(Debug)]
struct Resolver {
    hosts: Hosts,
    /// `None` if the configuration is unusable.
    servers: Option<TokioResolver>,
    time_max: Duration,
}

impl NameServers {
    /// Reads the hosts file and the system's configuration. If that names no server, the one on this machine is
    /// asked, as resolv.conf(5) says.
    pub fn new(config: &DnsConfig) -> Self {
        let current = Current {
            modified: modified(),
            resolver: Arc::new(Resolver::read(config)),
            looked: Stopwatch::start(),
        };
        Self { config: config.clone(), current: Mutex::new(current) }
    }

    /// The resolver by the files as they are now, or were some seconds ago.
    fn current(&self) -> Arc<Resolver> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= FILES_POLL {
            current.looked = Stopwatch::start();
            let modified = modified();
            if modified != current.modified {
                tracing::info!("the hosts file or the list of name servers has changed");
                current.modified = modified;
                current.resolver = Arc::new(Resolver::read(&self.config));
            }
        }
        Arc::clone(&current.resolver)
    }
}

#[async_trait]
impl DnsResolver for NameServers {
    async fn lookup(&self, name: &str) -> DnsAnswer {
        self.current().lookup(name).await
    }
}

fn modified() -> [Option<SystemTime>; FILES.len()] {
    let of_file = |file: &str| Path::new(file).metadata().and_then(|data| data.modified()).ok();
    FILES.map(of_file)
}

impl Resolver {
    fn read(config: &DnsConfig) -> Self {
        let (servers, options) = servers(config);
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the hosts file");
            Hosts::default()
        });
        Self::new(hosts, servers, options, config.dns_timeout)
    }

    fn new(
        hosts: Hosts,
        servers: ResolverConfig,
        mut options: ResolverOpts,
        time_max: Duration,
    ) -> Self {
        // One try of four fifths of the time, in which a query over UDP is sent up to three times. So a name whose
        // IPv6 addresses are never answered still has its IPv4 addresses in time.
        options.attempts = 0;
        options.timeout = time_max.mul_f64(0.8);
        // IPv4 first: many servers have no route for IPv6. The client tries the other kind after a moment.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // The hosts file is read here, since a name in it must not wait for a server. Answers are cached above,
        // bounded in bytes.
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let mut builder =
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let built = builder.build();
        if let Err(error) = &built {
            tracing::error!(%error, "cannot use the name servers");
        }
        Self { hosts, servers: built.ok(), time_max }
    }

    async fn lookup(&self, host: &str) -> DnsAnswer {
        let Ok(name) = Name::from_ascii(host) else {
            return DnsAnswer::failed(LookupError::InvalidName);
        };
        if let Some(answer) = self.in_hosts(&name) {
            return answer;
        }
        let Some(servers) = &self.servers else {
            return DnsAnswer::failed(LookupError::Unreachable);
        };
        match servers.lookup_ip(name).await {
            Ok(found) => answer([found.as_lookup()]),
            Err(error) => {
                tracing::debug!(host, %error, "cannot resolve a name");
                failure(&error, self.time_max)
            }
        }
    }

    /// The addresses of the hosts file, which override any that a server has.
    fn in_hosts(&self, name: &Name) -> Option<DnsAnswer> {
        let of_type = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found = [RecordType::A, RecordType::AAAA].map(of_type);
        if found.iter().all(Option::is_none) {
            return None;
        }
        Some(answer(found.iter().flatten()))
    }
}

/// The servers of the settings, or those of the system with its search domains and options.
fn servers(config: &DnsConfig) -> (ResolverConfig, ResolverOpts) {
    let addresses = config.dns_servers.addresses();
    if !addresses.is_empty() {
        let servers = addresses.iter().copied().map(server).collect();
        return (ResolverConfig::from_name_servers(servers), ResolverOpts::default());
    }
    system_conf::read_system_conf().unwrap_or_else(|error| {
        let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53);
        tracing::warn!(%error, server = %local, "the system has no name servers; asking the local one");
        (ResolverConfig::from_name_servers(vec![server(local)]), ResolverOpts::default())
    })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(at_port);
    // A name that the first server denies does not exist: the others are there for when it does not answer.
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// Every address that was found.
fn answer<'a>(found: impl IntoIterator<Item = &'a Lookup>) -> DnsAnswer {
    let records: Vec<_> = found.into_iter().flat_map(Lookup::answers).collect();
    let addresses = records.iter().filter_map(|record| record.data.ip_addr());
    let addresses: Arc<[SocketAddr]> = addresses.map(with_any_port).collect();
    let ttl = records.iter().map(|record| record.ttl).min().unwrap_or_default();
    if addresses.is_empty() {
        return DnsAnswer::failed(LookupError::NoAddress);
    }
    let ttl = Duration::from_secs(ttl.into()).clamp(ANSWER_TTL_MIN, ANSWER_TTL_MAX);
    DnsAnswer { addresses: Ok(addresses), ttl }
}

fn with_any_port(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 0)
}

/// What a tenant is told, and for how long nobody asks again.
fn failure(error: &NetError, time_max: Duration) -> DnsAnswer {
    let NetError::Dns(error) = error else {
        let is_timeout = matches!(error, NetError::Timeout);
        let error =
            if is_timeout { LookupError::NoAnswer(time_max) } else { LookupError::Unreachable };
        return DnsAnswer::failed(error);
    };
    let (code, ttl) = match error {
        DnsError::NoRecordsFound(found) => (found.response_code, found.negative_ttl),
        DnsError::ResponseCode(code) => (*code, None),
        _ => return DnsAnswer::failed(LookupError::Unreachable),
    };
    let error = match code {
        ResponseCode::NXDomain => LookupError::NoSuchName,
        ResponseCode::NoError => LookupError::NoAddress,
        code => return DnsAnswer::failed(LookupError::Server(code.to_string())),
    };
    let ttl = ttl.map_or(FAILURE_TTL, |ttl| Duration::from_secs(ttl.into()));
    DnsAnswer { addresses: Err(error), ttl: ttl.clamp(ANSWER_TTL_MIN, ABSENCE_TTL_MAX) }
}

#[cfg(test)]
mod tests {
    use super::super::name_server::{NameServer, Reply};
    use super::*;

    fn resolver(hosts: &str, server: &NameServer, search: &[&str]) -> Resolver {
        let mut file = Hosts::default();
        file.read_hosts_conf(hosts.as_bytes()).unwrap();
        let search = search.iter().map(|domain| domain.parse().unwrap()).collect();
        let servers = vec![self::server(server.address())];
        let config = ResolverConfig::from_parts(None, search, servers);
        Resolver::new(file, config, ResolverOpts::default(), Duration::from_secs(5))
    }

    fn ips(answer: &DnsAnswer) -> Vec<String> {
        let addresses = answer.addresses.as_ref().unwrap();
        addresses.iter().map(|address| address.ip().to_string()).collect()
    }

    fn absent(_: &str) -> Reply {
        Reply::NoSuchName { ttl: 3600 }
    }

    #[tokio::test]
    async fn hosts_file_overrides_the_servers_for_both_kinds_of_addresses() {
        let server =
            NameServer::start(|_| Reply::addresses(&["1.1.1.1", "2606:4700::1"], 60)).await;
        let hosts = "10.0.0.5 intranet Db.Internal # theirs\n10.0.0.6 intranet\nfd00::5 six\n";
        let resolver = resolver(hosts, &server, &[]);
        assert_eq!(ips(&resolver.lookup("intranet").await), ["10.0.0.5", "10.0.0.6"]);
        assert_eq!(ips(&resolver.lookup("db.internal.").await), ["10.0.0.5"]);
        assert_eq!(ips(&resolver.lookup("six").await), ["fd00::5"]);
        assert_eq!(server.queries(), 0);
        assert_eq!(ips(&resolver.lookup("other").await), ["1.1.1.1", "2606:4700::1"]);
    }

    #[tokio::test]
    async fn localhost_is_this_machine_and_no_server_is_asked() {
        let server = NameServer::start(|_| Reply::addresses(&["1.1.1.1"], 60)).await;
        let found = ips(&resolver("", &server, &[]).lookup("localhost").await);
        assert_eq!(found, ["127.0.0.1", "::1"]);
        assert_eq!(server.queries(), 0);
    }

    #[tokio::test]
    async fn short_names_are_searched_in_the_search_domains_and_long_ones_are_first_taken_as_they_are()
     {
        let server = NameServer::start(|name| match name {
            "hooks.corp.example" => Reply::addresses(&["10.0.0.1"], 60),
            "hooks.example" => Reply::addresses(&["1.1.1.1"], 60),
            _ => absent(name),
        })
        .await;
        let resolver = resolver("", &server, &["lab.example", "corp.example"]);
        assert_eq!(ips(&resolver.lookup("hooks").await), ["10.0.0.1"]);
        assert_eq!(ips(&resolver.lookup("hooks.example").await), ["1.1.1.1"]);
        let outside = resolver.lookup("hooks.").await;
        assert_eq!(outside.addresses, Err(LookupError::NoSuchName));
    }

    #[tokio::test]
    async fn answers_are_kept_as_long_as_they_say_within_bounds() {
        let server = NameServer::start(|name| match name {
            "zero.example" => Reply::addresses(&["1.1.1.1"], 0),
            "minute.example" => Reply::addresses(&["1.1.1.1"], 60),
            "day.example" => Reply::addresses(&["1.1.1.1"], 86_400),
            "absent-zero.example" => Reply::NoSuchName { ttl: 0 },
            "empty.example" => Reply::Empty { ttl: 20 },
            "failing.example" => Reply::ServerFailure,
            _ => absent(name),
        })
        .await;
        let resolver = resolver("", &server, &[]);
        let failure = LookupError::Server("Server Failure".to_owned());
        let cases = [
            ("zero.example", None, 1),
            ("minute.example", None, 60),
            ("day.example", None, 300),
            ("absent.example", Some(LookupError::NoSuchName), 60),
            ("absent-zero.example", Some(LookupError::NoSuchName), 1),
            ("empty.example", Some(LookupError::NoAddress), 20),
            ("failing.example", Some(failure), 5),
            ("a..b", Some(LookupError::InvalidName), 5),
        ];
        for (name, error, seconds) in cases {
            let answer = resolver.lookup(name).await;
            assert_eq!(answer.addresses.err(), error, "{name}");
            assert_eq!(answer.ttl, Duration::from_secs(seconds), "{name}");
        }
    }

    #[tokio::test]
    async fn names_as_tenants_write_them_are_looked_up() {
        let server = NameServer::start(|_| Reply::addresses(&["1.1.1.1"], 60)).await;
        let resolver = resolver("", &server, &[]);
        for name in ["_hooks.example", "foo_bar.example", "xn--bcher-kva.example", "0.example"] {
            assert_eq!(ips(&resolver.lookup(name).await), ["1.1.1.1"], "{name}");
        }
    }

    #[tokio::test]
    async fn ipv6_addresses_that_are_never_answered_do_not_hide_the_others() {
        let server = NameServer::start(|_| Reply::OnlyIpv4("1.1.1.1")).await;
        let search = Vec::new();
        let config = ResolverConfig::from_parts(None, search, vec![self::server(server.address())]);
        let time_max = Duration::from_millis(500);
        let resolver = Resolver::new(Hosts::default(), config, ResolverOpts::default(), time_max);
        let answer = tokio::time::timeout(time_max, resolver.lookup("hooks.example")).await;
        assert_eq!(ips(&answer.unwrap()), ["1.1.1.1"]);
    }

    #[tokio::test]
    async fn second_server_is_asked_when_the_first_is_silent() {
        let silent = NameServer::start(|_| Reply::Silence).await;
        let late =
            || Reply::Late(Duration::from_millis(50), Reply::addresses(&["1.1.1.1"], 60).into());
        let server = NameServer::start(move |_| late()).await;
        let dns_servers = format!("{},{}", silent.address(), server.address()).parse().unwrap();
        let dns_timeout = Duration::from_secs(5);
        let servers = NameServers::new(&DnsConfig { dns_servers, dns_timeout });
        assert_eq!(ips(&servers.lookup("hooks.example").await), ["1.1.1.1"]);
    }
}
