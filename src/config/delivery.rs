//! How webhooks are sent.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::{DestinationConfig, parse_duration, parse_wait};

/// How webhooks are sent.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DeliveryConfig {
    /// Where they may go.
    #[command(flatten)]
    pub destinations: DestinationConfig,
    /// A PEM file of certificates that receivers are trusted by beside the system's, as of a private CA
    #[arg(long, env = "WEBHOOK_CA_FILE", value_name = "FILE")]
    pub webhook_ca_file: Option<PathBuf>,
    /// Waits between the attempts of a delivery; after the last one it becomes a dead letter
    #[arg(
        long,
        env = "RETRY_SCHEDULE",
        value_name = "DURATIONS",
        default_value = "5s,5m,30m,2h,5h,10h,14h,20h,24h"
    )]
    pub retry_schedule: RetrySchedule,
    /// A receiver that is not connected by then, TLS included, has failed
    #[arg(long, env = "DELIVERY_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub delivery_connect_timeout: Duration,
    /// A receiver that has not answered by then has failed
    #[arg(long, env = "DELIVERY_TIMEOUT", value_name = "DURATION", default_value = "15s", value_parser = parse_wait)]
    pub delivery_timeout: Duration,
    /// Webhooks under way at once, all endpoints together
    #[arg(long, env = "DELIVERY_CONCURRENCY", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub delivery_concurrency: u32,
    /// Webhooks under way at once to one endpoint
    #[arg(long, env = "ENDPOINT_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub endpoint_concurrency: u32,
    /// Deliveries held in memory at the most; the others wait in the store
    #[arg(long, env = "DELIVERY_QUEUE_CAPACITY", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub delivery_queue_capacity: u32,
    /// How long before other servers take over what one that died held; at least four DELIVERY_TIMEOUTs
    #[arg(long, env = "DELIVERY_LEASE", value_name = "DURATION", default_value = "5m", value_parser = parse_wait)]
    pub delivery_lease: Duration,
    /// How often due retries are looked for
    #[arg(long, env = "DELIVERY_POLL_INTERVAL", value_name = "DURATION", default_value = "500ms", value_parser = parse_wait)]
    pub delivery_poll_interval: Duration,
    /// Readiness turns red when due deliveries or accepted events wait and nothing got on for so long
    #[arg(long, env = "DELIVERY_STALL_AFTER", value_name = "DURATION", default_value = "1m", value_parser = parse_wait)]
    pub delivery_stall_after: Duration,
}

/// The waits between attempts, at most 32 of them: one more attempt than there are waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

impl RetrySchedule {
    /// The wait after the `attempts`th attempt failed; `None` when there is to be no other.
    pub fn wait_after(&self, attempts: u32) -> Option<Duration> {
        let index = usize::try_from(attempts).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }
}

impl FromStr for RetrySchedule {
    type Err = String;

    /// An empty text is a schedule without retries.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let waits = text.split(',').map(str::trim).filter(|wait| !wait.is_empty());
        let waits: Vec<_> = waits.map(parse_duration).collect::<Result<_, _>>()?;
        if waits.len() > 32 {
            return Err("must list at most 32 waits".to_owned());
        }
        Ok(Self(waits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_gives_the_wait_after_each_attempt() {
        let schedule: RetrySchedule = "5s, 5m".parse().unwrap();
        assert_eq!(schedule.wait_after(1), Some(Duration::from_secs(5)));
        assert_eq!(schedule.wait_after(2), Some(Duration::from_mins(5)));
        assert_eq!(schedule.wait_after(3), None);
        assert_eq!("".parse::<RetrySchedule>().unwrap().wait_after(1), None);
        assert!("5".parse::<RetrySchedule>().is_err());
    }
}
