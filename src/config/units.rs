//! Units of settings: durations such as `1500ms`, `30s`, `5m`, `2h`, `7d`.

use std::time::Duration;

pub use crate::domain::parse_duration;

/// The shortest interval or timeout.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Parses an interval or a timeout of at least a millisecond. Zero would be a loop without a pause, or
/// a timeout that always strikes.
pub fn parse_wait(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < SHORTEST_WAIT {
        return Err("must be at least 1ms".to_owned());
    }
    Ok(duration)
}

/// Parses a share: a number from 0 to 1.
pub(super) fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| "must be a number from 0 to 1")?;
    if (0.0..=1.0).contains(&ratio) { Ok(ratio) } else { Err("must be from 0 to 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_bounds() {
        assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_mins(90)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        for bad in ["5", "", "-1s", "11years", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_wait("1ms"), Ok(SHORTEST_WAIT));
        assert!(parse_wait("0s").is_err());
    }

    #[test]
    fn ratios_are_from_nothing_to_all() {
        assert_eq!(parse_ratio("0.25"), Ok(0.25));
        for bad in ["-0.1", "1.1", "NaN", "inf", "1%", ""] {
            assert!(parse_ratio(bad).is_err(), "{bad}");
        }
    }
}
