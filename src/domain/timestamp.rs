//! Moments in time: microseconds since the Unix epoch, UTC, the finest step both stores keep.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The first moment that RFC 3339 can write, 0000-01-01T00:00:00Z.
const FIRST: i64 = -62_167_219_200_000_000;
/// The last one, 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_799_999_999;

/// A moment, in whole microseconds since 1970-01-01T00:00:00Z. Written as RFC 3339, in UTC: what lies outside
/// the years 0000 to 9999, as neither clocks nor texts do, is written as the nearest moment in them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

/// The text was no RFC 3339 date and time, or its offset takes it out of the years 0000 to 9999, UTC.
#[derive(Debug, thiserror::Error)]
#[error(
    "must be an RFC 3339 date and time such as 2026-01-31T12:00:00Z, in the years 0000 to 9999 of UTC"
)]
pub struct TimestampError;

impl Timestamp {
    /// Takes microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch; negative before 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down: the unit of `webhook-timestamp`.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This moment plus `span`, stopping at the end of the range.
    pub fn plus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This moment less `span`, stopping at the start of the range.
    pub fn minus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// The time from `earlier` to this moment; zero when `earlier` is later (clocks step back).
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// A calendar month, UTC, as a number such as 202601.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Month(u32);

impl Month {
    /// The month that a moment is in.
    pub fn of(moment: Timestamp) -> Self {
        let date = OffsetDateTime::from(moment).date();
        Self(u32::try_from(date.year()).unwrap_or(0) * 100 + u32::from(u8::from(date.month())))
    }

    /// As a number such as 202601.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The moment at which the month that `moment` is in ends.
    pub fn end(moment: Timestamp) -> Timestamp {
        let date = OffsetDateTime::from(moment).date();
        let length = date.month().length(date.year());
        let last = date.replace_day(length).unwrap_or(date);
        let first = last.next_day().unwrap_or(last);
        first.midnight().assume_utc().into()
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self(i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for OffsetDateTime {
    /// Moments outside the years 0000 to 9999 become the nearest in them.
    fn from(moment: Timestamp) -> Self {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment.0.clamp(FIRST, LAST)) * 1_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from(*self).format(&Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError)?;
        let micros = Self::from(moment).0;
        if (FIRST..=LAST).contains(&micros) { Ok(Self(micros)) } else { Err(TimestampError) }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_have_numbers_and_ends() {
        for (moment, number, end) in [
            ("2026-01-31T23:59:59.999999Z", 202_601, "2026-02-01T00:00:00Z"),
            ("2026-02-01T00:00:00Z", 202_602, "2026-03-01T00:00:00Z"),
            ("2027-12-05T00:00:00Z", 202_712, "2028-01-01T00:00:00Z"),
        ] {
            let moment: Timestamp = moment.parse().unwrap();
            assert_eq!(Month::of(moment).number(), number);
            assert_eq!(Month::end(moment).to_string(), end);
        }
    }

    #[test]
    fn text_goes_there_and_back() {
        let moment: Timestamp = "2026-11-21T01:02:03.000004+01:00".parse().unwrap();
        assert_eq!(moment.to_string(), "2026-11-21T00:02:03.000004Z");
        assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        assert!("2026-11-21".parse::<Timestamp>().is_err());
    }

    #[test]
    fn years_are_those_that_can_be_written() {
        for good in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"] {
            let moment: Timestamp = good.parse().unwrap();
            assert_eq!(moment.to_string(), good);
        }
        for bad in ["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_moment_can_be_written() {
        for (micros, text) in [
            (i64::MIN, "0000-01-01T00:00:00Z"),
            (FIRST - 1, "0000-01-01T00:00:00Z"),
            (LAST + 1, "9999-12-31T23:59:59.999999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            let moment = Timestamp::from_micros(micros);
            assert_eq!(moment.to_string(), text);
            assert!(Month::end(moment) >= Month::end(Timestamp::from_micros(FIRST)));
        }
    }

    #[test]
    fn seconds_round_down_before_the_epoch_too() {
        assert_eq!(Timestamp::from_micros(-1).seconds(), -1);
        assert_eq!(Timestamp::from_micros(1_999_999).seconds(), 1);
    }
}
