//! `hookgate openapi`: the document that `GET /openapi.json` answers, for people and generators of clients.

use super::{CliError, print_line};
use crate::app;

/// Prints the document.
pub(super) fn run() -> Result<(), CliError> {
    print_line(&serde_json::to_string_pretty(&app::openapi_document())?)?;
    Ok(())
}
