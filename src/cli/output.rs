//! Answers on standard output.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

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
            Self::Json => serde_json::to_string(answer)?,
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

/// One line for each, or `none`.
pub(super) fn lines<T>(all: &[T], line: impl Fn(&T) -> String) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}
