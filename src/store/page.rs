//! Pages of a list, newest first.

use uuid::Uuid;

use super::engine::{Args, Row, Sql, args};
use super::{Result, Store};
use crate::domain::{Cursor, Page, PageRequest, Timestamp};

/// After every time that is ever stored: 9999-12-31T23:59:59Z, the last second that RFC 3339 and
/// both engines can write.
pub(super) const END_OF_TIME: Timestamp = Timestamp::from_micros(253_402_300_799_000_000);

/// Before every time that is ever stored: the year 0 begins, the first that RFC 3339 can write.
pub(super) const START_OF_TIME: Timestamp = Timestamp::from_micros(-62_167_219_200_000_000);

impl Store {
    /// Reads a page of what a SELECT finds. Its parameters `$1` and `$2` are the time and the id of
    /// the row that the page starts after, `$3` is its row limit; `args` follow.
    pub(super) async fn page<T>(
        &self,
        request: PageRequest,
        sql: impl Into<Sql>,
        args: Args<'_>,
        read: impl Fn(&Row) -> Result<T>,
        cursor: impl Fn(&T) -> Cursor,
    ) -> Result<Page<T>> {
        let after = position(request);
        let mut all_args = args![after.at, after.id, fetch_limit(request)];
        all_args.extend(args);
        let rows = self.engine.all(sql, all_args).await?;
        let items = rows.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Page::from_rows(items, request.limit, cursor))
    }
}

/// The position a page starts after; the first page starts after one newer than every row, so that
/// one statement serves both.
pub(super) fn position(page: PageRequest) -> Cursor {
    let newest = Cursor { at: END_OF_TIME, id: Uuid::max() };
    let cursor = page.after.unwrap_or(newest);
    Cursor { at: cursor.at.clamp(START_OF_TIME, END_OF_TIME), id: cursor.id }
}

/// Rows to fetch for a page: one more than it shows proves that more follow.
pub(super) fn fetch_limit(page: PageRequest) -> i64 {
    i64::from(page.limit) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_time_are_what_rfc_3339_can_write() {
        assert_eq!(END_OF_TIME.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(START_OF_TIME.to_string(), "0000-01-01T00:00:00Z");
    }
}
