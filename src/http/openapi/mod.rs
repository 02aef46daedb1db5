//! The description of the API as an OpenAPI 3.1 document, put together from the code that serves it.
//!
//! # Operation
//! ```text
//! router: a row per route ─┬─ RequestSchema   what the extractors of its handler take, and why they refuse it
//!                          ├─ DescribesAnswers  what its handler returns: statuses, schemas, header fields
//!                          ├─ Access            whose key it takes
//!                          └─ Operation         what no type says: a name, words, errors of its own
//!                                  └──────▶ document
//! ```
//! Schemas of answers are derived from the very types that are serialised (`schemars`), those of requests from the
//! declarations that parse them. Bounds are the constants that are checked, error codes those of the problem registry.
//! A row without an operation does not compile. The integration tests hold every answer that they get to the document.
//!
//! **Invariant:** the document is the same on every server of one version: it depends on no setting.

mod answers;
mod components;
mod document;
mod examples;
mod operation;
pub(super) mod operations;
mod problems;
mod schemas;
#[cfg(test)]
mod tests;
mod webhooks;

pub use answers::Answers;
pub(super) use answers::{
    Cacheable, DescribesAnswers, EventStream, HtmlPage, JsonLines, Operates, PageFile, PlainText,
};
pub(super) use document::document;
pub use operation::{Operation, Tag};
