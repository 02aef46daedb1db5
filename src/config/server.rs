//! Settings of the server: its listener, and bounds of connections and requests.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Networks, Origins, parse_duration, parse_wait};

/// Settings of the server.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct ServerConfig {
    /// Address to listen on, or localhost; 0.0.0.0 accepts connections from other machines
    #[arg(long, env = "HOST", value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = parse_host)]
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "PORT", default_value_t = 3000)]
    pub port: u16,
    /// PEM file with a certificate and its chain; turns on HTTPS. SIGHUP reloads it
    #[arg(long, env = "TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Networks of proxies whose X-Forwarded-For is trusted, such as 10.0.0.0/8,fd00::/8
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_proxies: Networks,
    /// Origins whose web pages may call the API, such as https://app.example.com; * allows all
    #[arg(
        long,
        env = "CORS_ORIGINS",
        value_name = "ORIGINS",
        default_value = "",
        hide_default_value = true
    )]
    pub cors_origins: Origins,
    /// For how long a browser need not ask again which methods and headers a page may use, at most 24h; browsers may
    /// remember it for less
    #[arg(long, env = "CORS_MAX_AGE", value_name = "DURATION", default_value = "10m", value_parser = parse_cors_max_age)]
    pub cors_max_age: Duration,
    /// Maximum open connections; fewer where the limit of file descriptors (`ulimit -n`) is lower. Further
    /// ones wait until another is closed
    #[arg(long, env = "CONNECTIONS_MAX", value_name = "CONNECTIONS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,
    /// Maximum open connections per client address, at most half of CONNECTIONS_MAX; TRUSTED_PROXIES are
    /// exempt
    #[arg(long, env = "CONNECTIONS_PER_ADDRESS", value_name = "CONNECTIONS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_address: u32,
    /// Timeout for receiving the headers of the next request and for sending an answer; then the
    /// connection is closed
    #[arg(long, env = "HEAD_TIMEOUT", value_name = "DURATION", default_value = "75s", value_parser = parse_wait)]
    pub head_timeout: Duration,
    /// Timeout for answering a request; then it gets 503
    #[arg(long, env = "REQUEST_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_wait)]
    pub request_timeout: Duration,
    /// Maximum memory for request bodies that are being received or accepted, in MiB; beyond it requests get
    /// 503, and those of an organisation that holds more than it leaves to the others 429. Unset: 128, or four
    /// times the largest body
    #[arg(long, env = "BODIES_IN_FLIGHT_MIB", value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub bodies_in_flight_mib: Option<u32>,
    /// Maximum memory for answers that clients have not read yet, in MiB; beyond it requests get 503 or 429, as
    /// for bodies. Unset: 128, or four times the largest event
    #[arg(long, env = "ANSWERS_IN_FLIGHT_MIB", value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub answers_in_flight_mib: Option<u32>,
    /// Time to answer requests and finish attempts in flight after SIGTERM or SIGINT; what waits in the journal and the
    /// database waits for the next start
    #[arg(long, env = "SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub shutdown_timeout: Duration,
}

/// The longest that any browser remembers what a page may do: Firefox does for a day, Chromium for two hours.
const CORS_MAX_AGE: Duration = Duration::from_hours(24);

/// Parses for how long browsers may remember what a page may do: whole seconds, at most a day.
///
/// # Errors
/// When it is no duration, or longer.
fn parse_cors_max_age(text: &str) -> Result<Duration, String> {
    let age = parse_duration(text)?;
    if age > CORS_MAX_AGE || age.subsec_nanos() > 0 {
        return Err("must be whole seconds, at most 24h".to_owned());
    }
    Ok(age)
}

/// Parses an address of this machine, or `localhost`.
///
/// # Errors
/// When it is neither.
pub fn parse_host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| "must be an IP address of this machine, or localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cors_max_age_is_at_most_a_day() {
        assert_eq!(parse_cors_max_age("0s"), Ok(Duration::ZERO));
        assert_eq!(parse_cors_max_age("24h"), Ok(CORS_MAX_AGE));
        for wrong in ["25h", "500ms", "10"] {
            assert!(parse_cors_max_age(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn host_is_an_address_or_localhost() {
        assert_eq!(parse_host("localhost"), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(parse_host("::1").unwrap().to_string(), "::1");
        assert!(parse_host("example.com").unwrap_err().contains("localhost"));
    }
}
