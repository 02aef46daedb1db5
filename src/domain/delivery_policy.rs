//! How fast, how often and in what order an endpoint gets its deliveries.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::Violation;

/// The longest duration: ten years. Sums with the time stay far from any end.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// Parses a duration such as `30s` or `1h 30m`, of ten years at most; a bare number has no unit
/// and is refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 500ms, 30s, 5m, 2h or 7d"))?;
    if duration > LONGEST {
        return Err("must be ten years at most".to_owned());
    }
    Ok(duration)
}

/// The waits between attempts, at most 32 of them: one more attempt than there are waits.
///
/// Written as one text with commas between the waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

impl RetrySchedule {
    /// Waits at most.
    pub const WAITS_MAX: usize = 32;
    /// The longest wait of an endpoint's own schedule.
    pub const WAIT_MAX: Duration = Duration::from_hours(30 * 24);

    /// The wait after the `attempts`th attempt failed; `None` when there is to be no other.
    pub fn wait_after(&self, attempts: u32) -> Option<Duration> {
        let index = usize::try_from(attempts).ok()?.checked_sub(1)?;
        self.0.get(index).copied()
    }

    /// Takes an endpoint's own schedule, wait by wait; none means no retries.
    ///
    /// # Errors
    /// Every wait that is none or longer than 30 days, or that there are more than 32.
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

    /// An empty text is a schedule without retries.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
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

/// What an endpoint's owner wants of its deliveries; `None` follows the server's setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeliveryPolicy {
    /// Attempts in flight at once at most; 1 to 1000.
    pub max_concurrency: Option<u32>,
    /// Attempts started in a second at most; 1 to 10,000. `None` means as many as there are.
    pub rate_limit_per_second: Option<u32>,
    /// The waits between attempts.
    pub retry_schedule: Option<RetrySchedule>,
    /// Whether deliveries are made one at a time, in the order their events were accepted.
    pub ordered: bool,
}

/// What to change of a [`DeliveryPolicy`]; `None` leaves a field as it is, `Some(None)` follows the
/// server's setting again.
#[derive(Clone, Debug, Default)]
pub struct DeliveryPolicyChange {
    /// See [`DeliveryPolicy::max_concurrency`].
    pub max_concurrency: Option<Option<u32>>,
    /// See [`DeliveryPolicy::rate_limit_per_second`].
    pub rate_limit_per_second: Option<Option<u32>>,
    /// See [`DeliveryPolicy::retry_schedule`].
    pub retry_schedule: Option<Option<RetrySchedule>>,
    /// See [`DeliveryPolicy::ordered`]. Holds for events that are accepted from then on.
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
    /// What `max_concurrency` may be.
    pub const CONCURRENCY: RangeInclusive<u32> = 1..=1000;
    /// What `rate_limit_per_second` may be.
    pub const RATE_LIMIT: RangeInclusive<u32> = 1..=10_000;

    /// The rules for its numbers.
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
    fn schedule_goes_there_and_back_as_text() {
        for text in ["5s,5m", "", "1h 30m,1day,1500ms"] {
            let schedule: RetrySchedule = text.parse().unwrap();
            assert_eq!(schedule.to_string().parse::<RetrySchedule>().unwrap(), schedule, "{text}");
        }
    }

    #[test]
    fn every_wait_that_breaks_a_rule_is_named_by_its_place() {
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
