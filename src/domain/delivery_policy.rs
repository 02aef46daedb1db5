//! Delivery policies: an endpoint's concurrency, rate limit, retry schedule and ordering.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::Violation;

/// Maximum duration: ten years. Sums with timestamps then cannot overflow.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// Parses a duration such as `30s` or `1h 30m`, at most ten years. A number without a unit is rejected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 500ms, 30s, 5m, 2h or 7d"))?;
    if duration > LONGEST {
        return Err("must be at most ten years".to_owned());
    }
    Ok(duration)
}

/// A retry schedule: the waits between attempts, at most 32. There is one more attempt than there are waits.
///
/// As text, the waits are separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

impl RetrySchedule {
    /// Maximum waits.
    pub const WAITS_MAX: usize = 32;
    /// Maximum wait in an endpoint's schedule.
    pub const WAIT_MAX: Duration = Duration::from_hours(30 * 24);

    /// The wait after this many failed attempts; `None` if no other attempt follows.
    pub fn wait_after(&self, attempts: u32) -> Option<Duration> {
        let index = usize::try_from(attempts).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }

    /// Parses an endpoint's schedule. An empty list means no retries.
    ///
    /// # Errors
    /// Every wait that is invalid or longer than 30 days, or that there are more than 32 waits.
    pub fn parse_waits<S: AsRef<str>>(waits: &[S]) -> Result<Self, Vec<Violation>> {
        if waits.len() > Self::WAITS_MAX {
            let rule = "must list at most 32 waits";
            return Err(vec![Violation::new("retry_schedule", "length", rule)]);
        }
        let mut violations = Vec::new();
        let mut parsed = Vec::with_capacity(waits.len());
        for (index, text) in waits.iter().enumerate() {
            let field = || format!("retry_schedule[{index}]");
            match parse_duration(text.as_ref()) {
                Ok(wait) if wait <= Self::WAIT_MAX => parsed.push(wait),
                Ok(_) => violations.push(Violation::new(field(), "range", "must be at most 30d")),
                Err(_) => {
                    let rule = "must be a duration such as 5s, 30m or 2h";
                    violations.push(Violation::new(field(), "format", rule));
                }
            }
        }
        if violations.is_empty() { Ok(Self(parsed)) } else { Err(violations) }
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|wait| humantime::format_duration(*wait).to_string())
    }
}

impl FromStr for RetrySchedule {
    type Err = String;

    /// `none` and an empty text mean no retries.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = if text == "none" { "" } else { text };
        let waits = text.split(',').map(str::trim).filter(|wait| !wait.is_empty());
        let waits: Vec<_> = waits.map(parse_duration).collect::<Result<_, _>>()?;
        if waits.len() > Self::WAITS_MAX {
            return Err("must list at most 32 waits".to_owned());
        }
        Ok(Self(waits))
    }
}

impl fmt::Display for RetrySchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().collect::<Vec<_>>().join(","))
    }
}

impl Serialize for RetrySchedule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.texts())
    }
}

/// How deliveries to an endpoint are made; `None` follows the server's setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct DeliveryPolicy {
    /// Maximum attempts in flight; 1 to 1000.
    pub max_concurrency: Option<u32>,
    /// Maximum attempts started per second; 1 to 10,000. `None` means no limit.
    pub rate_limit_per_second: Option<u32>,
    /// The retry schedule.
    pub retry_schedule: Option<RetrySchedule>,
    /// Whether deliveries are made one at a time, in the order in which their events were accepted.
    pub ordered: bool,
}

/// A change of a [`DeliveryPolicy`]; `None` leaves a field unchanged, `Some(None)` resets it to the server's
/// setting.
#[derive(Clone, Debug, Default)]
pub struct DeliveryPolicyChange {
    /// See [`DeliveryPolicy::max_concurrency`].
    pub max_concurrency: Option<Option<u32>>,
    /// See [`DeliveryPolicy::rate_limit_per_second`].
    pub rate_limit_per_second: Option<Option<u32>>,
    /// See [`DeliveryPolicy::retry_schedule`].
    pub retry_schedule: Option<Option<RetrySchedule>>,
    /// See [`DeliveryPolicy::ordered`]. Applies to events accepted after the change.
    pub ordered: Option<bool>,
}

impl DeliveryPolicyChange {
    /// Applies the change.
    pub fn apply(&self, policy: &mut DeliveryPolicy) {
        let Self { max_concurrency, rate_limit_per_second, retry_schedule, ordered } = self;
        policy.max_concurrency = max_concurrency.unwrap_or(policy.max_concurrency);
        policy.rate_limit_per_second =
            rate_limit_per_second.unwrap_or(policy.rate_limit_per_second);
        if let Some(schedule) = retry_schedule {
            policy.retry_schedule.clone_from(schedule);
        }
        policy.ordered = ordered.unwrap_or(policy.ordered);
    }
}

impl DeliveryPolicy {
    /// The range of `max_concurrency`.
    pub const CONCURRENCY: RangeInclusive<u32> = 1..=1000;
    /// The range of `rate_limit_per_second`.
    pub const RATE_LIMIT: RangeInclusive<u32> = 1..=10_000;

    /// Checks the ranges of its numbers.
    pub fn check(&self) -> Result<(), Violation> {
        let numbers = [
            ("max_concurrency", self.max_concurrency, Self::CONCURRENCY),
            ("rate_limit_per_second", self.rate_limit_per_second, Self::RATE_LIMIT),
        ];
        for (field, number, range) in numbers {
            if number.is_some_and(|number| !range.contains(&number)) {
                return Err(Violation::range(field, &range));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_gives_the_wait_after_each_attempt() {
        let schedule: RetrySchedule = "5s, 5m".parse().unwrap();
        assert_eq!(schedule.wait_after(1), Some(Duration::from_secs(5)));
        assert_eq!(schedule.wait_after(2), Some(Duration::from_mins(5)));
        assert_eq!(schedule.wait_after(3), None);
        assert_eq!("".parse::<RetrySchedule>().unwrap().wait_after(1), None);
        assert!("5".parse::<RetrySchedule>().is_err());
    }

    #[test]
    fn schedule_survives_a_round_trip_as_text() {
        for text in ["5s,5m", "", "1h 30m,1day,1500ms"] {
            let schedule: RetrySchedule = text.parse().unwrap();
            assert_eq!(schedule.to_string().parse::<RetrySchedule>().unwrap(), schedule, "{text}");
        }
    }

    #[test]
    fn every_invalid_wait_is_named_by_its_index() {
        let faults = RetrySchedule::parse_waits(&["5s", "5", "31d"]).unwrap_err();
        let named: Vec<_> = faults.iter().map(|v| (v.field.as_str(), v.code)).collect();
        assert_eq!(named, [("retry_schedule[1]", "format"), ("retry_schedule[2]", "range")]);
        assert_eq!(RetrySchedule::parse_waits(&["1s"; 33]).unwrap_err()[0].code, "length");
        assert_eq!(RetrySchedule::parse_waits::<&str>(&[]).unwrap().wait_after(1), None);
    }

    #[test]
    fn numbers_have_bounds() {
        let concurrency =
            |number| DeliveryPolicy { max_concurrency: Some(number), ..DeliveryPolicy::default() };
        let rate = |number| DeliveryPolicy {
            rate_limit_per_second: Some(number),
            ..DeliveryPolicy::default()
        };
        for good in [DeliveryPolicy::default(), concurrency(1), concurrency(1000), rate(10_000)] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        for bad in [concurrency(0), concurrency(1001), rate(0), rate(10_001)] {
            assert_eq!(bad.check().unwrap_err().code, "range", "{bad:?}");
        }
    }
}
