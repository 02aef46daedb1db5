//! How many rows a page examines at most.
//!
//! A row that an index finds and that fails another condition costs as much as one that is listed. So a page ends with
//! the last of [`EXAMINED_MAX`] rows, whether they are listed or not, and its cursor goes on behind it. One more
//! statement finds that row: it steps over entries of the index, which costs far less than checking rows.

use super::{ListPart, ListQuery, Source};
use crate::domain::Cursor;
use crate::store::engine::{Row, args};
use crate::store::page::OrderSql;
use crate::store::{Result, Store};

/// Rows that a page examines, of all lists that it is merged from. SQLite checks as many in some 5 ms, if they are in
/// memory.
const EXAMINED_MAX: usize = 2_000;

impl ListQuery<'_> {
    /// The last row that a page examines; `None` when it checks no row, or they are fewer.
    pub(super) async fn examined_to(
        &self,
        store: &Store,
        source: &Source<'_>,
        after: Cursor,
    ) -> Result<Option<Cursor>> {
        let parts = match source {
            _ if self.checks.is_empty() => return Ok(None),
            Source::Index(part, false) => std::slice::from_ref(part),
            Source::Parts(parts) => parts,
            _ => return Ok(None),
        };
        let (at, order) = (self.listed.at, OrderSql::of(self.bounds.order));
        let (range, page, sorted) = (self.range.join(" AND "), order.page(at), order.sorted(at));
        let passed = (EXAMINED_MAX / parts.len().max(1)).saturating_sub(1);
        let lasts = parts.iter().map(|ListPart { index, by_index }| {
            let table = self.table_by(*index);
            format!(
                "SELECT * FROM (SELECT {at}, id FROM {table}
                                WHERE {by_index} AND {range} {page} OFFSET {passed}) p"
            )
        });
        // What comes behind the first of them may be missing from its list.
        let lasts = lasts.collect::<Vec<_>>().join(" UNION ALL ");
        let sql = format!("SELECT * FROM ({lasts}) e {sorted} LIMIT 1");
        let args = self.args_of(&sql, args![after.at, after.id, 1_i64]);
        let read = |row: &Row| Ok(Cursor { at: row.get(at)?, id: row.get("id")? });
        store.engine.find(sql, args, read).await
    }
}
