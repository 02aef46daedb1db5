//! Answers on standard output.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;

use super::printable::{printable, printable_json, printable_line};

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// One JSON object or array
    Json,
}

impl Output {
    /// Writes `answer` as JSON, or else the text that `text` makes of it.
    pub(super) fn write<T: Serialize>(
        self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        let line = match self {
            Self::Json => printable_json(&serde_json::to_string(answer)?),
            Self::Text => text(answer),
        };
        print_line(&line)
    }
}

/// Writes one line to standard output. A closed pipe is not an error, so that `| head` works.
pub fn print_line(line: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Tells something on standard error; if that is closed, nobody wants to know.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// One line for each, or `none`.
pub(super) fn lines<T>(all: &[T], line: impl Fn(&T) -> String) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A table of these fields of JSON objects, under their names; `none` without a row.
pub(super) fn table(rows: &[Value], fields: &[&str]) -> String {
    if rows.is_empty() {
        return "none".to_owned();
    }
    let cell = |row: &Value, field: &str| match &row[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable_line(text),
        value => value.to_string(),
    };
    let header = fields.iter().map(|field| field.to_uppercase()).collect();
    let cells = rows.iter().map(|row| fields.iter().map(|field| cell(row, field)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(cells).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max();
    let widths: Vec<_> = (0..fields.len()).map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [json!({"id": "a", "n": 1}), json!({"id": "bcd\u{1b}", "n": null})];
        assert_eq!(table(&rows, &["id", "n"]), "ID         N\na          1\nbcd\\u{1b}  -");
        assert_eq!(table(&[], &["id"]), "none");
    }
}
