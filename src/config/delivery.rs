//! Settings of delivery.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{DestinationConfig, DnsConfig, parse_wait};
use crate::domain::RetrySchedule;

/// Minimum of `INBOX_IDLE_MAX`. Consumers poll for up to half a minute, and a read is noted once a minute.
const INBOX_IDLE_MIN: Duration = Duration::from_mins(5);

/// Settings of delivery.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryConfig {
    /// Where webhooks may go.
    #[command(flatten)]
    pub destinations: DestinationConfig,
    /// How host names are resolved.
    #[command(flatten)]
    pub dns: DnsConfig,
    /// PEM file with additional trusted CA certificates, such as a private CA's
    #[arg(long, env = "WEBHOOK_CA_FILE", value_name = "FILE")]
    pub webhook_ca_file: Option<PathBuf>,
    /// Delays between the attempts of a delivery, or none; after the last attempt it becomes a dead letter
    #[arg(
        long,
        env = "RETRY_SCHEDULE",
        value_name = "DURATIONS",
        default_value = "5s,5m,30m,2h,5h,10h,14h,20h,24h"
    )]
    pub retry_schedule: RetrySchedule,
    /// Timeout for connecting to a receiver, from its address to the end of the TLS handshake
    #[arg(long, env = "DELIVERY_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub delivery_connect_timeout: Duration,
    /// Timeout for an attempt, from the request to the header of the answer; looking up the host has its own, and so
    /// has the wait for an HTTP/2 stream
    #[arg(long, env = "DELIVERY_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = parse_wait)]
    pub delivery_timeout: Duration,
    /// Maximum webhooks in flight, over all endpoints
    #[arg(long, env = "DELIVERY_CONCURRENCY", value_name = "WEBHOOKS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub delivery_concurrency: u32,
    /// Maximum webhooks in flight per endpoint; an endpoint's max_concurrency overrides it
    #[arg(long, env = "ENDPOINT_CONCURRENCY", value_name = "WEBHOOKS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub endpoint_concurrency: u32,
    /// Disable an endpoint after failing continuously for this long
    #[arg(long, env = "DISABLE_AFTER", value_name = "DURATION", default_value = "5d", value_parser = parse_wait)]
    pub disable_after: Duration,
    /// An inbox that nobody reads for this long is paused: nothing more is kept in it until it is read again; at least
    /// 5m
    #[arg(long, env = "INBOX_IDLE_MAX", value_name = "DURATION", default_value = "7d", value_parser = parse_idle)]
    pub inbox_idle_max: Duration,
    /// Maximum deliveries held in memory; the others wait in the store
    #[arg(long, env = "DELIVERY_QUEUE_CAPACITY", value_name = "DELIVERIES", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub delivery_queue_capacity: u32,
    /// Time after which other servers take over the deliveries of a server that died; at least four
    /// times DELIVERY_TIMEOUT
    #[arg(long, env = "DELIVERY_LEASE", value_name = "DURATION", default_value = "5m", value_parser = parse_wait)]
    pub delivery_lease: Duration,
    /// Interval of polling for due retries
    #[arg(long, env = "DELIVERY_POLL_INTERVAL", value_name = "DURATION", default_value = "500ms", value_parser = parse_wait)]
    pub delivery_poll_interval: Duration,
    /// Strict readiness fails when due deliveries or accepted events wait and no progress was made for this
    /// long; at least twice DELIVERY_TIMEOUT
    #[arg(long, env = "DELIVERY_STALL_AFTER", value_name = "DURATION", default_value = "1m", value_parser = parse_wait)]
    pub delivery_stall_after: Duration,
}

/// Parses `INBOX_IDLE_MAX`.
fn parse_idle(text: &str) -> Result<Duration, String> {
    let duration = parse_wait(text)?;
    if duration < INBOX_IDLE_MIN {
        return Err("must be at least 5m: a read is noted only once a minute".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbox_is_not_idle_before_its_reads_are_noted() {
        assert_eq!(parse_idle("5m"), Ok(INBOX_IDLE_MIN));
        for short in ["1ms", "59s", "4m 59s"] {
            assert!(parse_idle(short).unwrap_err().contains("at least 5m"), "{short}");
        }
    }
}
