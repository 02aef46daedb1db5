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

/// The position that a page starts after. The first page starts after one that is newer than every row, so that one
/// statement serves all; with `until`, every page starts after one that is newer than every row from before then, so
/// that none reads through newer rows.
pub(super) fn start(request: PageRequest, until: Option<Timestamp>) -> Cursor {
    let newest = Cursor { at: END_OF_TIME, id: Uuid::max() };
    let after = request.after.unwrap_or(newest);
    let start = match until {
        Some(until) if until <= after.at => Cursor { at: until, id: Uuid::nil() },
        _ => after,
    };
    Cursor { at: start.at.clamp(START_OF_TIME, END_OF_TIME), ..start }
}

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
        let after = start(request, None);
        // One row more than the page shows proves that more follow.
        let limit = i64::from(request.limit) + 1;
        let mut all_args = args![after.at, after.id, limit];
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
    fn page_starts_after_the_cursor_or_before_the_end_of_the_list() {
        let cursor = |micros, id| Cursor { at: Timestamp::from_micros(micros), id };
        let from = |after| PageRequest { limit: 1, after };
        let until = Some(Timestamp::from_micros(5));
        let (none, id) = (Uuid::nil(), Uuid::from_u128(7));
        assert_eq!(start(from(None), None), Cursor { at: END_OF_TIME, id: Uuid::max() });
        assert_eq!(start(from(None), until), cursor(5, none));
        assert_eq!(start(from(Some(cursor(6, id))), until), cursor(5, none));
        assert_eq!(start(from(Some(cursor(5, id))), until), cursor(5, none));
        assert_eq!(start(from(Some(cursor(4, id))), until), cursor(4, id));
        assert_eq!(start(from(Some(cursor(i64::MAX, id))), None).at, END_OF_TIME);
    }

    #[test]
    fn ends_of_time_are_what_rfc_3339_can_write() {
        assert_eq!(END_OF_TIME.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(START_OF_TIME.to_string(), "0000-01-01T00:00:00Z");
    }
}
