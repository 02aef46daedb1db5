//! How far a page of a list looks.
//!
//! PostgreSQL opens every day's partition that a statement may need, and plans it: with a year of days that takes far
//! longer than reading a page. So a page reads the first days of its list, and those behind them only while it is not full.
//! SQLite has one table, of which nothing is opened in vain.

use std::time::Duration;

use uuid::Uuid;

use super::engine::{Dialect, Row, args};
use super::page::{END_OF_TIME, START_OF_TIME};
use super::{Result, Store};
use crate::domain::{Cursor, ListOrder, OrgId, Timestamp};

/// The first span of time that a page reads, and how much longer the next one is.
const SPAN: Duration = Duration::from_hours(48);
const SPAN_FACTOR: u32 = 8;
/// How much a server's clock may be behind the one that wrote when an organisation was created.
const CLOCK_SKEW: Duration = Duration::from_hours(24);

/// The spans that a page reads, one after the other. The first begins where the page does, each other one behind the one
/// before, so that no day is planned twice; each is told by its far end, in the order of the list.
#[derive(Debug)]
pub(super) struct LookBack {
    order: ListOrder,
    /// The far end of the last span.
    end: Timestamp,
    /// The length of the next one.
    span: Duration,
    /// The far end of the list.
    last: Timestamp,
    /// After this time there is nothing but what clocks that are ahead have stamped.
    now: Timestamp,
}

impl LookBack {
    /// All rows up to `last` at once.
    pub(super) const fn whole(order: ListOrder, last: Timestamp) -> Self {
        Self { order, end: last, span: SPAN, last, now: END_OF_TIME }
    }

    /// Spans from `first` to `last`.
    const fn in_spans(order: ListOrder, first: Timestamp, last: Timestamp, now: Timestamp) -> Self {
        Self { order, end: first, span: SPAN, last, now }
    }

    /// The far end of the next span.
    pub(super) fn next(&mut self) -> Timestamp {
        self.end = match self.order {
            ListOrder::NewestFirst => self.end.minus(self.span).max(self.last),
            ListOrder::OldestFirst => match self.end.plus(self.span) {
                end if end < self.now => end.min(self.last),
                _ => self.last,
            },
        };
        self.span = self.span.saturating_mul(SPAN_FACTOR);
        self.end
    }

    /// The position behind the last span, where the next one begins.
    pub(super) const fn behind(&self) -> Cursor {
        match self.order {
            ListOrder::NewestFirst => Cursor { at: self.end, id: Uuid::nil() },
            ListOrder::OldestFirst => Cursor { at: self.end, id: Uuid::max() },
        }
    }

    /// Whether the last span reached the last row that may be listed.
    pub(super) fn is_at_its_end(&self) -> bool {
        match self.order {
            ListOrder::NewestFirst => self.end <= self.last,
            ListOrder::OldestFirst => self.end >= self.last,
        }
    }
}

impl Store {
    /// How far a page of an organisation's rows looks that begins at `first`: to `last`, or to where the
    /// organisation was created, or to the end of time.
    ///
    /// Invariant: nothing of an organisation is older than itself. Events that are stored as accepted earlier come with
    /// [`backdate_org`](super::System::backdate_org).
    pub(super) async fn look_back(
        &self,
        org: OrgId,
        order: ListOrder,
        first: Timestamp,
        last: Option<Timestamp>,
    ) -> Result<LookBack> {
        let end = match order {
            ListOrder::NewestFirst => START_OF_TIME,
            ListOrder::OldestFirst => END_OF_TIME,
        };
        if self.engine.dialect() == Dialect::Sqlite {
            return Ok(LookBack::whole(order, last.unwrap_or(end)));
        }
        // The latest rows are where the clock of the database is.
        let sql = "SELECT created_at, now() AS now FROM orgs WHERE id = $1";
        let read = |row: &Row| Ok((row.get::<Timestamp>("created_at")?, row.get("now")?));
        let Some((created, now)) = self.engine.find(sql, args![org], read).await? else {
            return Ok(LookBack::whole(ListOrder::NewestFirst, END_OF_TIME));
        };
        let created = created.minus(CLOCK_SKEW);
        Ok(match order {
            ListOrder::NewestFirst => {
                let oldest = last.map_or(created, |oldest| oldest.max(created));
                LookBack::in_spans(order, first.min(now), oldest, now)
            }
            ListOrder::OldestFirst => {
                LookBack::in_spans(order, first.max(created), last.unwrap_or(end), now)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn day(number: i64) -> Timestamp {
        Timestamp::from_micros(number * DAY)
    }

    fn spans(mut look_back: LookBack) -> Vec<i64> {
        let mut spans = Vec::new();
        while !look_back.is_at_its_end() {
            spans.push(look_back.next().micros() / DAY);
        }
        spans
    }

    #[test]
    fn spans_grow_to_the_far_end_of_the_list() {
        let newest_first = LookBack::in_spans(ListOrder::NewestFirst, day(400), day(7), day(400));
        assert_eq!(spans(newest_first), [398, 382, 254, 7]);
        let oldest_first = LookBack::in_spans(ListOrder::OldestFirst, day(7), day(4_000), day(400));
        assert_eq!(spans(oldest_first), [9, 25, 153, 4_000]);
    }

    #[test]
    fn span_begins_behind_the_one_before() {
        for (order, id) in
            [(ListOrder::NewestFirst, Uuid::nil()), (ListOrder::OldestFirst, Uuid::max())]
        {
            let mut look_back = LookBack::in_spans(order, day(100), day(100), day(400));
            let end = look_back.next();
            assert_eq!(look_back.behind(), Cursor { at: end, id });
        }
    }

    #[test]
    fn whole_list_is_one_span() {
        for order in [ListOrder::NewestFirst, ListOrder::OldestFirst] {
            let mut look_back = LookBack::whole(order, day(7));
            assert_eq!((look_back.next(), look_back.is_at_its_end()), (day(7), true));
        }
    }
}
