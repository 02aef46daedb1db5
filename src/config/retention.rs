//! Settings of how long things are kept.

use std::time::Duration;

use clap::Args;

use super::parse_duration;

const DAY: Duration = Duration::from_hours(24);

/// How long things are kept. Unset, everything is kept for ever.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Retention")]
pub struct RetentionConfig {
    /// How long events are kept, with their deliveries and attempts, in whole days; an organisation may have another
    /// time. Unset: for ever
    #[arg(long, env = "RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub retention: Option<Duration>,
    /// How long the payloads of events and the excerpts of responses are kept, in whole days, at most as long as
    /// RETENTION; an organisation may have another time. Unset: as long as their events
    #[arg(long, env = "PAYLOAD_RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub payload_retention: Option<Duration>,
    /// How long dead letters are kept, in whole days. Unset: as long as the events of their organisation
    #[arg(long, env = "DEAD_LETTER_RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub dead_letter_retention: Option<Duration>,
    /// How long counts of events are kept, in whole days. Unset: for ever
    #[arg(long, env = "ROLLUP_RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub rollup_retention: Option<Duration>,
    /// How long replays that have ended are kept, in whole days. Unset: for ever
    #[arg(long, env = "REPLAY_RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub replay_retention: Option<Duration>,
    /// How long keys of organisations are kept after they have expired or were revoked, in whole days; of each organisation
    /// the last 1,000 of them at most; operators' keys are kept for ever. Unset: for ever
    #[arg(long, env = "KEY_RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub key_retention: Option<Duration>,
    /// How long entries of the audit log are kept, in whole days. Unset: for ever
    #[arg(long, env = "AUDIT_RETENTION", value_name = "DURATION", value_parser = parse_days)]
    pub audit_retention: Option<Duration>,
}

/// Settings of retention that contradict each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("PAYLOAD_RETENTION must be at most RETENTION: a payload goes with its event")]
pub struct RetentionError;

impl RetentionConfig {
    /// Checks that payloads are not to be kept longer than their events.
    ///
    /// # Errors
    /// When they are.
    pub fn check(&self) -> Result<(), RetentionError> {
        match (self.payload_retention, self.retention) {
            (Some(payloads), Some(events)) if payloads > events => Err(RetentionError),
            _ => Ok(()),
        }
    }
}

/// Whole days.
pub fn days(span: Duration) -> u32 {
    u32::try_from(span.as_secs() / DAY.as_secs()).unwrap_or(u32::MAX)
}

fn parse_days(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text)?;
    if span < DAY || span.as_nanos() % DAY.as_nanos() != 0 {
        return Err("must be whole days, at least 1d".to_owned());
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_whole_days() {
        assert_eq!(parse_days("30d").map(days), Ok(30));
        assert_eq!(parse_days("48h").map(days), Ok(2));
        for bad in ["0d", "12h", "36h", "30", ""] {
            assert!(parse_days(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn payloads_are_not_kept_longer_than_events() {
        let kept = |events, payloads| RetentionConfig {
            retention: Some(events),
            payload_retention: Some(payloads),
            ..RetentionConfig::default()
        };
        assert_eq!(kept(DAY, DAY).check(), Ok(()));
        assert_eq!(kept(DAY, 2 * DAY).check(), Err(RetentionError));
        assert_eq!(RetentionConfig { retention: None, ..kept(DAY, 2 * DAY) }.check(), Ok(()));
    }
}
