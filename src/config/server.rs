//! Where the server listens, and its bounds on connections and time.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Networks, Origins, parse_duration, parse_wait};

/// Where the server listens, and its bounds on connections and time.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerConfig {
    /// Address to listen on; 0.0.0.0 takes connections from other machines
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes any free one
    #[arg(long, env = "PORT", default_value_t = 3000)]
    pub port: u16,
    /// PEM file of a certificate and its chain: with it the server speaks HTTPS; SIGHUP reads it again
    #[arg(long, env = "TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(long, env = "TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Networks of proxies whose X-Forwarded-For is believed, as in 10.0.0.0/8,fd00::/8
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_proxies: Networks,
    /// Origins whose web pages may call the API, as in https://app.example.com, or * for all
    #[arg(
        long,
        env = "CORS_ORIGINS",
        value_name = "ORIGINS",
        default_value = "",
        hide_default_value = true
    )]
    pub cors_origins: Origins,
    /// Connections at once from one address; those of TRUSTED_PROXIES are not counted
    #[arg(long, env = "CONNECTIONS_PER_ADDRESS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_address: u32,
    /// A connection that has not sent the whole head of its next request, or read its answer, by then
    /// is closed
    #[arg(long, env = "HEAD_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = parse_wait)]
    pub head_timeout: Duration,
    /// A request that is not answered by then gets 503
    #[arg(long, env = "REQUEST_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_wait)]
    pub request_timeout: Duration,
    /// Time for draining the journal and finishing deliveries after SIGTERM or SIGINT
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub shutdown_timeout: Duration,
}
