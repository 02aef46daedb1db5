//! Spans of whole minutes, the resolution of what is counted.

use std::ops::Range;

use super::Timestamp;

const MINUTE_MICROS: i64 = 60_000_000;
/// Minutes in an hour.
pub const HOUR_MINUTES: i64 = 60;

/// A span of whole minutes, in minutes since 1970; the end is not part of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MinuteSpan {
    /// Its first minute.
    pub from: i64,
    /// The minute after its last one.
    pub until: i64,
}

/// The minute of a time, counted from 1970.
pub const fn minute_of(at: Timestamp) -> i64 {
    at.micros().div_euclid(MINUTE_MICROS)
}

/// When a minute begins.
pub const fn minute_start(minute: i64) -> Timestamp {
    Timestamp::from_micros(minute.saturating_mul(MINUTE_MICROS))
}

impl MinuteSpan {
    /// The minutes from that of `from` to that of the last moment before `until`, both whole.
    pub const fn covering(from: Timestamp, until: Timestamp) -> Self {
        let last = minute_of(Timestamp::from_micros(until.micros().saturating_sub(1)));
        Self { from: minute_of(from), until: last + 1 }
    }

    /// When it begins.
    pub const fn start(self) -> Timestamp {
        minute_start(self.from)
    }

    /// How many minutes it has.
    pub const fn minutes(self) -> i64 {
        self.until - self.from
    }

    /// Whether a time is in it.
    pub const fn has(self, at: Timestamp) -> bool {
        let minute = minute_of(at);
        self.from <= minute && minute < self.until
    }

    /// The hours of which it has a part, counted from 1970.
    pub const fn hours(self) -> Range<i64> {
        self.from.div_euclid(HOUR_MINUTES)..(self.until - 1).div_euclid(HOUR_MINUTES) + 1
    }

    /// The minutes of an hour that are in it; `None` for all of them.
    pub fn part_of(self, hour: i64) -> Option<Range<u8>> {
        let within = |minute: i64| {
            let minute = minute.saturating_sub(hour.saturating_mul(HOUR_MINUTES));
            u8::try_from(minute.clamp(0, HOUR_MINUTES)).unwrap_or(0)
        };
        let part = within(self.from)..within(self.until);
        (part != (0..60)).then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn span_covers_whole_minutes() {
        let span = MinuteSpan::covering(at("2026-01-31T12:00:59Z"), at("2026-01-31T14:00:00Z"));
        assert_eq!(span.start(), at("2026-01-31T12:00:00Z"));
        assert_eq!((span.minutes(), span.hours().count()), (120, 2));
        let longer = MinuteSpan::covering(span.start(), at("2026-01-31T14:00:00.000001Z"));
        assert_eq!((longer.minutes(), longer.hours().count()), (121, 3));
        assert!(span.has(at("2026-01-31T13:59:59.999999Z")));
        assert!(!span.has(at("2026-01-31T14:00:00Z")));
        assert!(!span.has(at("2026-01-31T11:59:59Z")));
    }

    #[test]
    fn hours_at_the_edges_are_counted_in_part() {
        let span = MinuteSpan::covering(at("2026-01-31T12:20:00Z"), at("2026-01-31T14:01:00Z"));
        let parts: Vec<_> = span.hours().map(|hour| span.part_of(hour)).collect();
        assert_eq!(parts, [Some(20..60), None, Some(0..1)]);
        let before = MinuteSpan::covering(at("1969-12-31T23:59:00Z"), at("1970-01-01T00:01:00Z"));
        assert_eq!(before.hours().collect::<Vec<_>>(), [-1, 0]);
        assert_eq!(before.part_of(-1), Some(59..60));
    }
}
