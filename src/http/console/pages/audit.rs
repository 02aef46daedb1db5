//! The audit log: who changed what.

use crate::api::audit;
use crate::domain::{AuditEntry, Scope};
use crate::http::console::failure::ConsoleError;
use crate::http::console::lists;
use crate::http::console::ui::{Cell, ConsoleForm, ConsolePage, DataTable, FormField};
use crate::http::console::visitor::Visitor;
use crate::http::routes::audit::AuditQuery;

/// `GET /console/audit`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let org = visitor.org(Scope::KeysRead)?;
    let (request, list) = lists::page_request(&visitor)?;
    let found = audit::list_of_org(visitor.app.reads(), org, request).await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let table = table(&found.data).pages(first, next);
    Ok(visitor
        .page("Audit log")
        .lead("Who changed what. Entries never change.")
        .section(table.html()))
}

/// `GET /console/operator-audit`: everything, or one organisation's entries.
pub(in crate::http::console) async fn of_all(
    visitor: Visitor,
) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let asked = lists::asked::<AuditQuery>(&visitor)?;
    let org = visitor.parameter("org_id").unwrap_or_default();
    let form = ConsoleForm::filters("/console/operator-audit")
        .field(FormField::line("org_id", "Organisation id").value(org));
    let page = lists::with_filters(visitor.page("Audit log"), form, &asked.violations);
    if !asked.violations.is_empty() {
        return Ok(page);
    }
    let found = audit::list(visitor.app.reads(), asked.filter.org_id, asked.page).await?;
    let (first, next) = visitor.list_pages(&asked.list, found.next_cursor);
    Ok(page.section(table(&found.data).pages(first, next).html()))
}

/// Entries as a table.
pub(super) fn table(entries: &[AuditEntry]) -> DataTable {
    let row = |entry: &AuditEntry| {
        let changes = entry.changes.to_string();
        vec![
            Cell::time(entry.at),
            Cell::code(&entry.action),
            Cell::code(entry.object),
            Cell::code(if changes == "{}" { String::new() } else { changes }),
            Cell::code(&entry.actor),
            Cell::maybe(entry.address.as_deref()),
        ]
    };
    DataTable::new("Changes", &["When", "Action", "Object", "Changes", "By", "From"])
        .rows(entries.iter().map(row))
        .empty("Nothing was changed yet", "")
}
