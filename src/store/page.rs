//! Pages of a list, in either order of time.

use std::time::Duration;

use uuid::Uuid;

use super::engine::{Args, Row, args};
use super::{Result, Store};
use crate::domain::{Cursor, ListOrder, Page, PageRequest, Timestamp};

/// After every time that is ever stored: 9999-12-31T23:59:59Z, the last second that RFC 3339 and
/// both engines can write.
pub(super) const END_OF_TIME: Timestamp = Timestamp::from_micros(253_402_300_799_000_000);

/// Before every time that is ever stored: the year 0 begins, the first that RFC 3339 can write.
pub(super) const START_OF_TIME: Timestamp = Timestamp::from_micros(-62_167_219_200_000_000);

/// The rows of a list: from a time on and before another, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListBounds {
    pub(super) order: ListOrder,
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
}

impl ListBounds {
    /// The position that a page starts after. The first page starts after one that comes before every row, so that one
    /// statement serves all; with a bound of time there, every page starts after one that comes before every row
    /// within it, so that none reads through the rows before.
    pub(super) fn start(self, after: Option<Cursor>) -> Cursor {
        let start = match self.order {
            ListOrder::NewestFirst => {
                let after = after.unwrap_or(Cursor { at: END_OF_TIME, id: Uuid::max() });
                match self.until {
                    Some(until) if until <= after.at => Cursor { at: until, id: Uuid::nil() },
                    _ => after,
                }
            }
            ListOrder::OldestFirst => {
                let after = after.unwrap_or(Cursor { at: START_OF_TIME, id: Uuid::nil() });
                match self.since {
                    Some(since) if since > after.at => Cursor { at: since, id: Uuid::nil() },
                    _ => after,
                }
            }
        };
        Cursor { at: start.at.clamp(START_OF_TIME, END_OF_TIME), ..start }
    }

    /// The last time that may be listed, in the order of the list.
    pub(super) fn last(self) -> Option<Timestamp> {
        match self.order {
            ListOrder::NewestFirst => self.since,
            ListOrder::OldestFirst => {
                self.until.map(|until| until.minus(Duration::from_micros(1)).min(END_OF_TIME))
            }
        }
    }
}

/// The SQL of an order. `$1` and `$2` are the position that a page starts after, and `$3` is its limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderSql {
    /// How a position compares with the one that the page starts after.
    pub(super) follows: &'static str,
    /// How a time compares with the far end of the page.
    pub(super) within: &'static str,
    direction: &'static str,
}

impl OrderSql {
    pub(super) const fn of(order: ListOrder) -> Self {
        match order {
            ListOrder::NewestFirst => Self { follows: "<", within: ">=", direction: " DESC" },
            ListOrder::OldestFirst => Self { follows: ">", within: "<=", direction: "" },
        }
    }

    /// What ends the SELECT of a page of rows that are listed by the time in `at`, behind a condition.
    pub(super) fn page(self, at: &str) -> String {
        let Self { follows, .. } = self;
        format!("AND ({at}, id) {follows} ($1, $2) {} LIMIT $3", self.sorted(at))
    }

    /// The rows in order.
    pub(super) fn sorted(self, at: &str) -> String {
        let Self { direction, .. } = self;
        format!("ORDER BY {at}{direction}, id{direction}")
    }
}

impl Store {
    /// Reads a page of the rows that a SELECT, which ends with a condition, finds; they are listed by the time in the
    /// column `at` and by `id`. The parameters `$1`, `$2` and `$3` are taken; `args` follow.
    pub(super) async fn page<T>(
        &self,
        request: PageRequest,
        at: &str,
        select: String,
        args: Args<'_>,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let bounds = ListBounds { order: request.order, since: None, until: None };
        let after = bounds.start(request.after);
        let sql = format!("{select} {}", OrderSql::of(bounds.order).page(at));
        // One row more than the page shows proves that more follow.
        let wanted = (after, request.limit as usize + 1);
        let items = self.items(sql, at, wanted, args, read).await?;
        Ok(Page::from_rows(items, request.limit, |(cursor, _)| *cursor).map(|(_, item)| item))
    }

    /// Reads so many rows of a list by a whole SELECT, each with its position.
    pub(super) async fn items<T>(
        &self,
        sql: String,
        at: &str,
        (after, wanted): (Cursor, usize),
        args: Args<'_>,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Vec<(Cursor, T)>> {
        let mut all_args = args![after.at, after.id, wanted];
        all_args.extend(args);
        let item = |row: &Row| Ok((Cursor { at: row.get(at)?, id: row.get("id")? }, read(row)?));
        self.engine.list(sql, all_args, item).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(micros: i64, id: Uuid) -> Cursor {
        Cursor { at: Timestamp::from_micros(micros), id }
    }

    fn bounds(order: ListOrder) -> ListBounds {
        let at = |micros| Some(Timestamp::from_micros(micros));
        ListBounds { order, since: at(2), until: at(5) }
    }

    #[test]
    fn page_starts_after_the_cursor_or_before_the_end_of_the_list() {
        let (none, id) = (Uuid::nil(), Uuid::from_u128(7));
        let within = bounds(ListOrder::NewestFirst);
        let all = ListBounds { since: None, until: None, ..within };
        assert_eq!(all.start(None), Cursor { at: END_OF_TIME, id: Uuid::max() });
        assert_eq!(within.start(None), cursor(5, none));
        assert_eq!(within.start(Some(cursor(6, id))), cursor(5, none));
        assert_eq!(within.start(Some(cursor(5, id))), cursor(5, none));
        assert_eq!(within.start(Some(cursor(4, id))), cursor(4, id));
        assert_eq!(all.start(Some(cursor(i64::MAX, id))).at, END_OF_TIME);
    }

    #[test]
    fn page_of_the_oldest_rows_starts_where_the_list_begins() {
        let (none, id) = (Uuid::nil(), Uuid::from_u128(7));
        let within = bounds(ListOrder::OldestFirst);
        let all = ListBounds { since: None, until: None, ..within };
        assert_eq!(all.start(None), Cursor { at: START_OF_TIME, id: none });
        assert_eq!(within.start(None), cursor(2, none));
        assert_eq!(within.start(Some(cursor(1, id))), cursor(2, none));
        assert_eq!(within.start(Some(cursor(2, id))), cursor(2, id));
        assert_eq!((within.last(), all.last()), (Some(Timestamp::from_micros(4)), None));
    }

    #[test]
    fn ends_of_time_are_what_rfc_3339_can_write() {
        assert_eq!(END_OF_TIME.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(START_OF_TIME.to_string(), "0000-01-01T00:00:00Z");
    }
}
