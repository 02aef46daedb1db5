//! Timestamps in microseconds since the Unix epoch, the resolution of both stores; and calendar months.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The first timestamp that RFC 3339 can express, 0000-01-01T00:00:00Z.
const FIRST: i64 = -62_167_219_200_000_000;
/// The last timestamp, 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_799_999_999;

/// No date and time is longer.
const ZONELESS_BYTES_MAX: usize = 64;

/// A point in time, in whole microseconds since 1970-01-01T00:00:00Z. Displayed as RFC 3339 in UTC; outside the
/// years 0000 to 9999, which no clock or text gives, as the nearest time within them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(i64);

/// Why a text is not a timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimestampError {
    /// It is not an RFC 3339 date and time, or is outside the years 0000 to 9999 in UTC.
    #[error("{}", Timestamp::RULE)]
    Format,
    /// It has no time zone.
    #[error(
        "must name its time zone: end it with Z for UTC, as in 2026-01-31T12:00:00Z, or with an \
         offset such as +01:00"
    )]
    NoZone,
    /// It is a number, as of seconds or milliseconds since 1970.
    #[error("must be an RFC 3339 date and time such as 2026-01-31T12:00:00Z, not a number")]
    Number,
}

impl Timestamp {
    /// What the text of one must be, for people.
    pub const RULE: &'static str = "must be an RFC 3339 date and time such as \
                                    2026-01-31T12:00:00Z, in the years 0000 to 9999 of UTC";

    /// Wraps microseconds since the epoch.
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

    /// The start of its millisecond.
    pub const fn floor_ms(self) -> Self {
        Self(self.0 - self.0.rem_euclid(1_000))
    }

    /// This time plus `span`, saturating.
    pub fn plus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This time minus `span`, saturating.
    pub fn minus(self, span: Duration) -> Self {
        let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// The time since `earlier`; zero if `earlier` is later, since clocks can step back.
    pub fn since(self, earlier: Self) -> Duration {
        let micros = self.0.saturating_sub(earlier.0);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// A calendar month, UTC, as a number such as 202601.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Month(u32);

/// The text is not a month.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", Month::RULE)]
pub struct MonthError;

impl Month {
    /// What the text of one must be, for people.
    pub const RULE: &'static str = "must be a month such as 2026-01";

    /// The month of a timestamp.
    pub fn of(timestamp: Timestamp) -> Self {
        let date = OffsetDateTime::from(timestamp).date();
        Self(u32::try_from(date.year()).unwrap_or(0) * 100 + u32::from(u8::from(date.month())))
    }

    /// As a number such as 202601.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The end of the month of a timestamp.
    pub fn end(timestamp: Timestamp) -> Timestamp {
        let date = OffsetDateTime::from(timestamp).date();
        let length = date.month().length(date.year());
        let last = date.replace_day(length).unwrap_or(date);
        let first = last.next_day().unwrap_or(last);
        first.midnight().assume_utc().into()
    }
}

impl FromStr for Month {
    type Err = MonthError;

    fn from_str(text: &str) -> Result<Self, MonthError> {
        let (year, month) = text.split_once('-').ok_or(MonthError)?;
        let number = |digits: &str, length: usize| {
            let is_number = digits.len() == length && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u32>().ok().filter(|_| is_number).ok_or(MonthError)
        };
        let (year, month) = (number(year, 4)?, number(month, 2)?);
        if (1..=12).contains(&month) { Ok(Self(year * 100 + month)) } else { Err(MonthError) }
    }
}

/// As in `2026-01`.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 100, self.0 % 100)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(time: OffsetDateTime) -> Self {
        Self(i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for OffsetDateTime {
    /// Timestamps outside the years 0000 to 9999 become the nearest ones within.
    fn from(timestamp: Timestamp) -> Self {
        OffsetDateTime::from_unix_timestamp_nanos(
            i128::from(timestamp.0.clamp(FIRST, LAST)) * 1_000,
        )
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
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimestampError::of(text))?;
        let micros = Self::from(time).0;
        if (FIRST..=LAST).contains(&micros) {
            Ok(Self(micros))
        } else {
            Err(TimestampError::Format)
        }
    }
}

impl TimestampError {
    /// What is wrong with a text that is no date and time with a zone.
    fn of(text: &str) -> Self {
        let is_zoneless = || OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339).is_ok();
        if text.parse::<f64>().is_ok() {
            Self::Number
        } else if text.len() < ZONELESS_BYTES_MAX && is_zoneless() {
            Self::NoZone
        } else {
            Self::Format
        }
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
        for (timestamp, number, end) in [
            ("2026-01-31T23:59:59.999999Z", 202_601, "2026-02-01T00:00:00Z"),
            ("2026-02-01T00:00:00Z", 202_602, "2026-03-01T00:00:00Z"),
            ("2027-12-05T00:00:00Z", 202_712, "2028-01-01T00:00:00Z"),
        ] {
            let timestamp: Timestamp = timestamp.parse().unwrap();
            assert_eq!(Month::of(timestamp).number(), number);
            assert_eq!(Month::end(timestamp).to_string(), end);
        }
    }

    #[test]
    fn months_are_read_as_they_are_displayed() {
        let month: Month = "2026-01".parse().unwrap();
        assert_eq!((month.number(), month.to_string().as_str()), (202_601, "2026-01"));
        for bad in ["", "2026", "2026-1", "2026-00", "2026-13", "+026-01", "2026-01-01"] {
            assert!(bad.parse::<Month>().is_err(), "{bad}");
        }
    }

    #[test]
    fn text_survives_a_round_trip() {
        let timestamp: Timestamp = "2026-11-21T01:02:03.000004+01:00".parse().unwrap();
        assert_eq!(timestamp.to_string(), "2026-11-21T00:02:03.000004Z");
        assert_eq!(timestamp.to_string().parse::<Timestamp>().unwrap(), timestamp);
        assert!("2026-11-21".parse::<Timestamp>().is_err());
    }

    #[test]
    fn missing_zones_and_numbers_are_told_as_such() {
        let error = |text: &str| text.parse::<Timestamp>().unwrap_err();
        for text in ["2026-01-31T12:00:00", "2026-01-31T12:00:00.123456"] {
            assert_eq!(error(text), TimestampError::NoZone, "{text}");
        }
        for text in ["1769860800", "1769860800000", "1769860800.5", "-1"] {
            assert_eq!(error(text), TimestampError::Number, "{text}");
        }
        for text in ["", "now", "2026-01-31", "2026-13-31T12:00:00", "0000-01-01T00:00:00+00:01"] {
            assert_eq!(error(text), TimestampError::Format, "{text}");
        }
    }

    #[test]
    fn years_are_limited_to_0000_to_9999() {
        for good in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"] {
            let timestamp: Timestamp = good.parse().unwrap();
            assert_eq!(timestamp.to_string(), good);
        }
        for bad in ["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_timestamp_can_be_displayed() {
        for (micros, text) in [
            (i64::MIN, "0000-01-01T00:00:00Z"),
            (FIRST - 1, "0000-01-01T00:00:00Z"),
            (LAST + 1, "9999-12-31T23:59:59.999999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            let timestamp = Timestamp::from_micros(micros);
            assert_eq!(timestamp.to_string(), text);
            assert!(Month::end(timestamp) >= Month::end(Timestamp::from_micros(FIRST)));
        }
    }

    #[test]
    fn seconds_round_down_before_the_epoch_too() {
        assert_eq!(Timestamp::from_micros(-1).seconds(), -1);
        assert_eq!(Timestamp::from_micros(1_999_999).seconds(), 1);
    }
}
