//! Pages of a list, newest first.

use uuid::Uuid;

use super::engine::{Args, Row, args};
use super::{Result, Store};
use crate::domain::{Cursor, Page, PageRequest, Timestamp};

/// After every time that is ever stored: 9999-12-31T23:59:59Z, the last second that RFC 3339 and
/// both engines can write.
pub(super) const END_OF_TIME: Timestamp = Timestamp::from_micros(253_402_300_799_000_000);

/// Before every time that is ever stored: the year 0 begins, the first that RFC 3339 can write.
pub(super) const START_OF_TIME: Timestamp = Timestamp::from_micros(-62_167_219_200_000_000);

impl Store {
    /// Reads a page of the rows that a SELECT, which ends with a condition, finds; they are listed by the
    /// time in the column `at` and by `id`. The parameters `$1`, `$2` and `$3` are taken; `args` follow.
    pub(super) async fn page<T>(
        &self,
        request: PageRequest,
        at: &str,
        select: String,
        args: Args<'_>,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        // The first page starts after a position newer than every row, so that one statement serves all.
        let newest = Cursor { at: END_OF_TIME, id: Uuid::max() };
        let after = request.after.unwrap_or(newest);
        // One row more than the page shows proves that more follow.
        let limit = i64::from(request.limit) + 1;
        let mut all_args = args![after.at.clamp(START_OF_TIME, END_OF_TIME), after.id, limit];
        all_args.extend(args);
        let sql =
            format!("{select} AND ({at}, id) < ($1, $2) ORDER BY {at} DESC, id DESC LIMIT $3");
        let rows = self.engine.all(sql, all_args).await?;
        let item = |row| Ok((Cursor { at: Row::get(row, at)?, id: row.get("id")? }, read(row)?));
        let items = rows.iter().map(item).collect::<Result<_>>()?;
        Ok(Page::from_rows(items, request.limit, |(cursor, _)| *cursor).map(|(_, item)| item))
    }
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
