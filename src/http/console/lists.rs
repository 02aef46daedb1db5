//! The filters of a list: read from the query by the API's own rules, with what was wrong.

use axum::http::StatusCode;
use url::form_urlencoded;

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
    pub(super) faults: Vec<Violation>,
}

/// Reads the filters of a list. Fields that are left empty are as if they were not there.
pub(super) fn asked<T: QueryFields>(visitor: &Visitor) -> Asked<T> {
    let mut query = query(visitor);
    let (page, list) = query.page();
    let filter = T::read(&mut query);
    Asked { filter, page, list, faults: faults(query) }
}

/// Reads the position in a list without filters.
pub(super) fn page_request(visitor: &Visitor) -> (PageRequest, RequestedList) {
    query(visitor).page()
}

/// Reads the position in a list that is not in the order of time.
pub(super) fn label_list(visitor: &Visitor) -> LabelListing {
    query(visitor).labels()
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

fn faults(query: Query) -> Vec<Violation> {
    match query.finish() {
        Err(ApiError::Invalid(violations)) => violations,
        _ => Vec::new(),
    }
}

/// Adds the filters of a list to its page; if something was wrong with them, the page says so.
pub(super) fn with_filters(
    page: ConsolePage,
    form: ConsoleForm,
    faults: &[Violation],
) -> ConsolePage {
    let status = if faults.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    page.section(form.faults(faults).html()).status(status)
}
