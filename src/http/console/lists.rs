//! The filters of a list: read from the query by the API's own rules, with what was wrong.

use axum::http::StatusCode;
use url::form_urlencoded;

use super::failure::ConsoleError;
use super::posted::time;
use super::ui::{ConsoleForm, ConsolePage};
use super::visitor::Visitor;
use crate::domain::{PageRequest, Violation};
use crate::http::error::ApiError;
use crate::http::request::query::Query;
use crate::http::request::{LabelListing, QueryFields, RequestedList};

/// What a list is asked for.
pub(super) struct Asked<T> {
    pub(super) filter: T,
    pub(super) page: PageRequest,
    pub(super) list: RequestedList,
    /// What was wrong; then nothing is listed.
    pub(super) violations: Vec<Violation>,
}

/// Reads the filters of a list. Fields that are left empty are as if they were not there.
///
/// # Errors
/// When the position is not one of this list.
pub(super) fn asked<T: QueryFields>(visitor: &Visitor) -> Result<Asked<T>, ConsoleError> {
    let mut query = query(visitor);
    let (page, list) = query.page();
    let filter = T::read(&mut query);
    let violations = violations(query);
    check_position(&violations)?;
    Ok(Asked { filter, page, list, violations })
}

/// Reads the position in a list without filters.
///
/// # Errors
/// When it is not one of this list.
pub(super) fn page_request(
    visitor: &Visitor,
) -> Result<(PageRequest, RequestedList), ConsoleError> {
    let mut query = query(visitor);
    let page = query.page();
    check_position(&violations(query))?;
    Ok(page)
}

/// Reads the position in a list that is not in the order of time.
///
/// # Errors
/// When it is not one of this list.
pub(super) fn label_list(visitor: &Visitor) -> Result<LabelListing, ConsoleError> {
    let mut query = query(visitor);
    let list = query.labels();
    check_position(&violations(query))?;
    Ok(list)
}

/// Answers as the API does where the position in a list is malformed, or of another list: no form has a field for it.
fn check_position(violations: &[Violation]) -> Result<(), ConsoleError> {
    let of_position =
        |violation: &&Violation| matches!(violation.field.as_str(), "cursor" | "limit" | "order");
    let found: Vec<Violation> = violations.iter().filter(of_position).cloned().collect();
    if found.is_empty() { Ok(()) } else { Err(ApiError::Invalid(found).into()) }
}

fn query(visitor: &Visitor) -> Query {
    let mut text = form_urlencoded::Serializer::new(String::new());
    let here = visitor.here();
    let (path, query) = here.split_once('?').unwrap_or((&here, ""));
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = value.trim();
        if value.is_empty() || name == "done" {
            continue;
        }
        let is_time = matches!(&*name, "since" | "until");
        text.append_pair(&name, &if is_time { time(value) } else { value.into() });
    }
    Query::new(path, &text.finish())
}

fn violations(query: Query) -> Vec<Violation> {
    match query.finish() {
        Err(ApiError::Invalid(violations)) => violations,
        _ => Vec::new(),
    }
}

/// Adds the filters of a list to its page; if something was wrong with them, the page says so.
pub(super) fn with_filters(
    page: ConsolePage,
    form: ConsoleForm,
    violations: &[Violation],
) -> ConsolePage {
    let status =
        if violations.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    page.section(form.violations(violations).html()).status(status)
}
