//! Takes the rows of an answer one by one, so that a read that sums up many large ones holds only their sum.

use super::Row;
use crate::store::Result;

/// What takes the rows of an answer.
pub(crate) trait RowSink: Send {
    /// Forgets every row that it took: the statement is repeated.
    fn restart(&mut self);

    /// Takes the next row.
    fn take(&mut self, row: Row) -> Result<()>;
}

/// A sum of rows.
pub(super) struct Fold<T, F> {
    initial: T,
    pub(super) sum: T,
    add: F,
}

impl RowSink for Vec<Row> {
    fn restart(&mut self) {
        self.clear();
    }

    fn take(&mut self, row: Row) -> Result<()> {
        self.push(row);
        Ok(())
    }
}

impl<T: Clone + Send, F: FnMut(&mut T, &Row) -> Result<()> + Send> Fold<T, F> {
    pub(super) fn new(initial: T, add: F) -> Self {
        Self { sum: initial.clone(), initial, add }
    }
}

impl<T: Clone + Send, F: FnMut(&mut T, &Row) -> Result<()> + Send> RowSink for Fold<T, F> {
    fn restart(&mut self) {
        self.sum = self.initial.clone();
    }

    fn take(&mut self, row: Row) -> Result<()> {
        (self.add)(&mut self.sum, &row)
    }
}
