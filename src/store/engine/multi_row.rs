//! Statements over many rows for SQLite.

use std::iter;
use std::sync::Arc;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};

/// Rows in one statement, largest first. Any number of rows is a few of these.
const CHUNK_ROWS: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];
/// Rows in one statement at most.
pub(crate) const ROWS_MAX: usize = CHUNK_ROWS[0];

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

/// A statement over many rows, in a few sizes, so that SQLite prepares each size once. Rows of NULLs fill it up to
/// its size, so it must take no notice of these.
#[derive(Debug)]
pub(crate) struct MultiRow {
    columns: usize,
    texts: [Arc<str>; CHUNK_ROWS.len()],
}

/// Rows of one statement.
pub(super) struct Chunk<'a, T> {
    pub(super) sql: SqlStr,
    pub(super) rows: &'a [T],
    /// The NULLs that follow.
    pub(super) padding: usize,
}

impl MultiRow {
    /// `head`, then `(?,…)` with `columns` parameters per row, then `tail`.
    pub(crate) fn new(head: &str, columns: usize, tail: &str) -> Self {
        let row = format!("({})", iter::repeat_n("?", columns).collect::<Vec<_>>().join(","));
        let texts = CHUNK_ROWS.map(|rows| {
            let values = iter::repeat_n(row.as_str(), rows).collect::<Vec<_>>().join(",");
            format!("{head}{values}{tail}").into()
        });
        Self { columns, texts }
    }

    /// `INSERT INTO` these columns of a table the values of each row, then `tail`.
    pub(crate) fn insert(into: &str, columns: usize, tail: &str) -> Self {
        let head = format!("INSERT INTO {into} SELECT * FROM (VALUES ");
        Self::new(&head, columns, &format!(") WHERE column1 IS NOT NULL{tail}"))
    }

    /// The rows in chunks, each with the statement of the next size.
    pub(super) fn chunks<'a, T>(&'a self, rows: &'a [T]) -> impl Iterator<Item = Chunk<'a, T>> {
        rows.chunks(ROWS_MAX).filter_map(|rows| {
            let size = CHUNK_ROWS.iter().rposition(|size| *size >= rows.len())?;
            let padding = (CHUNK_ROWS[size] - rows.len()) * self.columns;
            // Only constants of the source and `?`.
            let sql = AssertSqlSafe(Arc::clone(&self.texts[size])).into_sql_str();
            Some(Chunk { sql, rows, padding })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_row_by_row() {
        assert_eq!(values(2, 3), "VALUES ($1,$2,$3),($4,$5,$6)");
        assert_eq!([0, 1, 15, 300].map(chunk_rows), [None, Some(1), Some(8), Some(256)]);
    }

    #[test]
    fn chunks_cover_all_rows_in_order_and_are_filled_up() {
        let statement = MultiRow::new("VALUES ", 2, ";");
        let rows: Vec<usize> = (0..607).collect();
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        for chunk in statement.chunks(&rows) {
            let size = chunk.sql.as_str().matches("(?,?)").count();
            assert_eq!(2 * (size - chunk.rows.len()), chunk.padding);
            seen.extend_from_slice(chunk.rows);
            sizes.push(size);
        }
        assert_eq!((seen, sizes), (rows, vec![256, 256, 128]));
    }
}
