//! Endpoints of all organisations that fail, for operators.

use crate::api::servers;
use crate::domain::{FailingEndpoint, Scope};
use crate::http::console::failure::ConsoleError;
use crate::http::console::lists;
use crate::http::console::ui::{Cell, ConsolePage, DataTable, Tone};
use crate::http::console::visitor::Visitor;

/// `GET /console/failing-endpoints`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let (request, list) = lists::page_request(&visitor)?;
    let found = servers::failing_endpoints(visitor.app.reads(), request);
    let found = found.await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let table = DataTable::new(
        "Endpoints",
        &["Failing since", "URL", "Organisation", "Last failure", "Last success", "State"],
    )
    .rows(found.data.iter().map(row))
    .pages(first, next)
    .empty("No endpoint fails", "");
    Ok(visitor
        .page("Failing endpoints")
        .lead("Whose attempts have all failed for a while, of every organisation; the last to begin first.")
        .section(table.html()))
}

fn row(endpoint: &FailingEndpoint) -> Vec<Cell> {
    let FailingEndpoint { id: _, org_id, url, failing_since, .. } = endpoint;
    let state = match &endpoint.disabled_reason {
        Some(reason) => Cell::badge(Tone::Bad, format!("disabled: {reason}")),
        None => Cell::badge(Tone::Wait, "sent to all the same"),
    };
    vec![
        Cell::time(*failing_since),
        Cell::code(url),
        Cell::link(format!("/console/orgs/{org_id}"), org_id),
        Cell::maybe_time(endpoint.last_failure_at),
        Cell::maybe_time(endpoint.last_success_at),
        state,
    ]
}
