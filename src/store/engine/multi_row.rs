//! Statements over many rows for SQLite.

use std::iter;
use std::sync::Arc;

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::sqlite_arguments;
use crate::store::Result;

/// Rows in one statement, largest first. Any number of rows is a few of these.
const CHUNK_ROWS: [usize; 5] = [256, 64, 16, 4, 1];

/// The size of the next statement for so many rows; `None` when there are none.
pub(super) fn chunk_rows(rows: usize) -> Option<usize> {
    CHUNK_ROWS.into_iter().find(|size| *size <= rows)
}

/// `VALUES ($1,$2),($3,$4)`: a table of so many rows and columns.
pub(super) fn values(rows: usize, columns: usize) -> String {
    let row = |row: usize| {
        let numbers = (1..=columns).map(|column| format!("${}", row * columns + column));
        format!("({})", numbers.collect::<Vec<_>>().join(","))
    };
    format!("VALUES {}", (0..rows).map(row).collect::<Vec<_>>().join(","))
}

/// A statement over many rows, in a few sizes, so that SQLite prepares each size once.
#[derive(Debug)]
pub(crate) struct MultiRow([Arc<str>; CHUNK_ROWS.len()]);

impl MultiRow {
    /// `head`, then `(?,…)` with `columns` parameters per row, then `tail`.
    pub(crate) fn new(head: &str, columns: usize, tail: &str) -> Self {
        let row = format!("({})", iter::repeat_n("?", columns).collect::<Vec<_>>().join(","));
        Self(CHUNK_ROWS.map(|rows| {
            let values = iter::repeat_n(row.as_str(), rows).collect::<Vec<_>>().join(",");
            format!("{head}{values}{tail}").into()
        }))
    }

    /// The rows in chunks, each with the statement of its size.
    pub(crate) fn chunks<'a, T>(
        &'a self,
        mut rows: &'a [T],
    ) -> impl Iterator<Item = (Sql, &'a [T])> {
        iter::from_fn(move || {
            let size = CHUNK_ROWS.iter().position(|size| *size <= rows.len())?;
            let (chunk, rest) = rows.split_at(CHUNK_ROWS[size]);
            rows = rest;
            Some((AssertSqlSafe(Arc::clone(&self.0[size])), chunk))
        })
    }

    /// Runs the statement over all rows and returns how many it changed.
    pub(crate) async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[T],
        bind: impl Fn(&mut SqliteArguments, &T) -> Result<(), BoxDynError>,
    ) -> Result<usize> {
        let mut changed = 0;
        for (sql, chunk) in self.chunks(rows) {
            let query = sqlx::query_with(sql, sqlite_arguments(chunk, &bind)?);
            changed += query.execute(&mut *connection).await?.rows_affected();
        }
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }
}

/// A statement that holds no text from outside: only constants of the source and `?`.
type Sql = AssertSqlSafe<Arc<str>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_row_by_row() {
        assert_eq!(values(2, 3), "VALUES ($1,$2,$3),($4,$5,$6)");
        assert_eq!([0, 1, 15, 300].map(chunk_rows), [None, Some(1), Some(4), Some(256)]);
    }

    #[test]
    fn chunks_cover_all_rows_in_order() {
        let statement = MultiRow::new("VALUES ", 2, ";");
        let rows: Vec<usize> = (0..607).collect();
        let mut seen = Vec::new();
        for (sql, chunk) in statement.chunks(&rows) {
            assert_eq!(sql.0.matches("(?,?)").count(), chunk.len());
            seen.extend_from_slice(chunk);
        }
        assert_eq!(seen, rows);
    }
}
