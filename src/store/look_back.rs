//! How far back a page of a list looks.
//!
//! PostgreSQL opens every day's partition that a statement may need, and plans it: with a year of days that takes far
//! longer than reading a page. So a page reads the latest days first, and more of them only while it is not full.
//! SQLite has one table, of which nothing is opened in vain.

use std::time::Duration;

use super::engine::{Dialect, Row, args};
use super::page::{END_OF_TIME, START_OF_TIME};
use super::{Result, Store};
use crate::domain::{OrgId, Timestamp};

/// The first span of time that a page reads, and how much longer the next one is.
const SPAN: Duration = Duration::from_hours(48);
const SPAN_FACTOR: u32 = 8;
/// How much a server's clock may be behind the one that wrote when an organisation was created.
const CLOCK_SKEW: Duration = Duration::from_hours(24);

/// The spans that a page reads, one after the other, each of which includes the one before.
#[derive(Debug)]
pub(super) struct LookBack {
    /// Where the last span began.
    from: Timestamp,
    /// The length of the next one.
    span: Duration,
    oldest: Timestamp,
}

impl LookBack {
    /// All rows from `oldest` on at once.
    pub(super) const fn whole(oldest: Timestamp) -> Self {
        Self { from: oldest, span: SPAN, oldest }
    }

    /// Spans from `newest` back to `oldest`.
    const fn in_spans(newest: Timestamp, oldest: Timestamp) -> Self {
        Self { from: newest, span: SPAN, oldest }
    }

    /// Where the next span begins.
    pub(super) fn next(&mut self) -> Timestamp {
        self.from = self.from.minus(self.span).max(self.oldest);
        self.span = self.span.saturating_mul(SPAN_FACTOR);
        self.from
    }

    /// Whether the last span reached the oldest row that may be listed.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.from <= self.oldest
    }
}

impl Store {
    /// How far a page of an organisation's rows from before `newest` looks back: to `oldest`, or to where the
    /// organisation was created.
    pub(super) async fn look_back(
        &self,
        org: OrgId,
        newest: Timestamp,
        oldest: Option<Timestamp>,
    ) -> Result<LookBack> {
        if self.engine.dialect() == Dialect::Sqlite {
            return Ok(LookBack::whole(oldest.unwrap_or(START_OF_TIME)));
        }
        // The latest rows are where the clock of the database is.
        let sql = "SELECT created_at, now() AS now FROM orgs WHERE id = $1";
        let read = |row: &Row| Ok((row.get::<Timestamp>("created_at")?, row.get("now")?));
        let Some((created, now)) = self.engine.find(sql, args![org], read).await? else {
            return Ok(LookBack::whole(END_OF_TIME));
        };
        let first = created.minus(CLOCK_SKEW);
        let oldest = oldest.map_or(first, |oldest| oldest.max(first));
        Ok(LookBack::in_spans(newest.min(now), oldest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn day(number: i64) -> Timestamp {
        Timestamp::from_micros(number * DAY)
    }

    #[test]
    fn spans_grow_down_to_the_oldest_row() {
        let mut look_back = LookBack::in_spans(day(400), day(7));
        let mut spans = Vec::new();
        while !look_back.is_at_its_end() {
            spans.push(look_back.next().micros() / DAY);
        }
        assert_eq!(spans, [398, 382, 254, 7]);
    }

    #[test]
    fn whole_list_is_one_span() {
        let mut look_back = LookBack::whole(day(7));
        assert_eq!((look_back.next(), look_back.is_at_its_end()), (day(7), true));
    }
}
