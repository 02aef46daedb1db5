//! The columns of one kind of row, named once for every statement about it.

use std::fmt;

/// Column names in the order of a row's values. The first one is the key.
///
/// A reader takes its struct apart without `..` into an array as long as this list, so that a field
/// which is forgotten here, in the values or in the reader does not compile or fails the first test.
#[derive(Debug)]
pub(crate) struct Columns<const N: usize>(pub(crate) [&'static str; N]);

/// `columns! { a b c }`: the names in their order.
macro_rules! columns {
    ($($name:ident)+) => {
        Columns([$(stringify!($name)),+])
    };
}
pub(super) use columns;

impl<const N: usize> Columns<N> {
    /// `INSERT INTO table (a, b) VALUES ($1, $2)`.
    pub(crate) fn insert_into(&self, table: &str) -> String {
        let values: Vec<String> = (1..=N).map(|number| format!("${number}")).collect();
        format!("INSERT INTO {table} ({self}) VALUES ({})", values.join(", "))
    }

    /// `UPDATE table SET b = $2, c = $3 WHERE a = $1`, `a` being the key.
    pub(crate) fn update(&self, table: &str) -> String {
        let numbered = self.0.iter().zip(1..);
        let set: Vec<String> =
            numbered.skip(1).map(|(column, number)| format!("{column} = ${number}")).collect();
        format!("UPDATE {table} SET {} WHERE {} = $1", set.join(", "), self.0[0])
    }

    /// The names as columns of `table`, an alias in a join: `p.a, p.b`.
    pub(crate) fn of(&self, table: &str) -> String {
        self.0.map(|column| format!("{table}.{column}")).join(", ")
    }
}

/// `a, b, c`.
impl<const N: usize> fmt::Display for Columns<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_name_every_column_and_number_its_value() {
        let columns = Columns(["id", "name", "size"]);
        assert_eq!(columns.insert_into("t"), "INSERT INTO t (id, name, size) VALUES ($1, $2, $3)");
        assert_eq!(columns.update("t"), "UPDATE t SET name = $2, size = $3 WHERE id = $1");
        assert_eq!(columns.of("p"), "p.id, p.name, p.size");
    }
}
