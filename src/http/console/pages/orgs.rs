//! Organisations as operators see them: the list with its search, and one with its usage and limits.

use super::hours::{Hours, hourly};
use crate::api::views::{KeyView, UsageView};
use crate::api::{analytics, keys, orgs};
use crate::domain::{Month, Org, OrgId, OrgState, PageRequest, Scope, Violation};
use crate::http::console::failure::ConsoleError;
use crate::http::console::lists;
use crate::http::console::ui::{
    Button, Cell, ConsoleForm, ConsolePage, DataTable, FactList, FieldKind, FormField, Html, Panel,
    Tile, Tiles, Tone, bytes, changing, grouped, paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::extract::Id;

pub(super) const PATH: &str = "/console/orgs";
/// Keys below an organisation.
const KEYS_SHOWN: u32 = 20;
/// Bytes of a search at most, as of a name.
const SEARCH_BYTES_MAX: usize = 128;

/// `GET /console/orgs`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let (request, list) = lists::page_request(&visitor)?;
    let name = visitor.parameter("name");
    let search = FormField::line("name", "Name or id").value(name.clone().unwrap_or_default());
    let search = ConsoleForm::filters(PATH).field(search);
    let mut page = visitor.page("Organisations");
    if name.as_ref().is_some_and(|name| name.len() > SEARCH_BYTES_MAX) {
        let rule = format!("must be at most {SEARCH_BYTES_MAX} bytes");
        return Ok(lists::with_filters(page, search, &[Violation::new("name", "length", rule)]));
    }
    let subsystems = visitor.app.reads();
    let found = match &name {
        Some(name) => orgs::search(subsystems, name, request).await?,
        None => orgs::list(subsystems, request).await?,
    };
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let row = |org: &Org| {
        vec![
            Cell::link(format!("{PATH}/{}", org.id), &org.name),
            state(org),
            Cell::time(org.created_at),
            Cell::code(org.id),
        ]
    };
    let table = DataTable::new("Organisations", &["Name", "State", "Created", "Id"])
        .rows(found.data.iter().map(row))
        .pages(first, next)
        .empty("No organisation matches", "");
    page = page.section(search.html());
    page = page.section(table.html()).section(most_active(&visitor).await?);
    if !visitor.may(Scope::OperatorWrite) {
        return Ok(page);
    }
    let name = FormField::line("name", "Name").required();
    let create = ConsoleForm::post(PATH, &visitor.csrf(), "Create organisation").field(name);
    Ok(page.section(Panel::html("New organisation", vec![create.html()])))
}

/// The organisations with the most events this month.
async fn most_active(visitor: &Visitor) -> Result<Html, ConsoleError> {
    let subsystems = visitor.app.replica_reads();
    let month = Month::of(subsystems.clock.now());
    let usage = analytics::usage(subsystems, month, None, None, 10).await?;
    let row = |usage: UsageView| {
        vec![
            Cell::link(format!("{PATH}/{}", usage.org_id), &usage.name),
            Cell::number(usage.events),
            Cell::Number(bytes(usage.bytes)),
            Cell::number(usage.delivered),
            Cell::number(usage.dead),
        ]
    };
    let columns = ["Organisation", "#Events", "#Payloads", "#Delivered", "#Dead"];
    let table = DataTable::new("Most events this month", &columns);
    Ok(table.rows(usage.data.into_iter().map(row)).empty("No event this month", "").html())
}

fn state(org: &Org) -> Cell {
    match org.state() {
        OrgState::Active => Cell::badge(Tone::Good, "active"),
        OrgState::Suspended => Cell::badge(Tone::Bad, "suspended"),
        OrgState::Deleting => Cell::badge(Tone::Wait, "being deleted"),
        OrgState::Deleted => Cell::badge(Tone::Plain, "deleted"),
    }
}

/// `GET /console/orgs/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<OrgId>,
) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let org = orgs::one(visitor.app.reads(), id).await?;
    let title = if org.name.is_empty() { id.to_string() } else { org.name.clone() };
    let mut page = visitor.page(title).crumb(PATH, "Organisations");
    if visitor.may(Scope::OperatorWrite) || visitor.may(Scope::OperatorImpersonate) {
        page = actions(page, &visitor, &org);
    }
    let mut facts = FactList::new("")
        .with("State", state(&org))
        .with("Id", Cell::code(id))
        .with("Created", Cell::time(org.created_at))
        .with_some("Suspended", Cell::maybe_time(org.suspended_at));
    if let Some(deletion) = org.deletion {
        facts = facts
            .with("Deletion began", Cell::time(deletion.since))
            .with("Rows deleted", Cell::number(deletion.rows))
            .with_some("Deletion done", Cell::maybe_time(deletion.done_at));
        let is_running = deletion.done_at.is_none();
        return Ok(page.section(changing(&visitor.here(), is_running, vec![facts.html()])));
    }
    page = page.section(usage(&visitor, id).await?).section(facts.html());
    let subsystems = visitor.app.replica_reads();
    let metrics = analytics::events_for_operator(subsystems, Some(id), hourly()).await?;
    let hours = Hours::of(&metrics, subsystems.clock.now());
    page = page.section(hours.events_chart()).section(hours.deliveries_chart());
    page = page.section(limits(&visitor, &org)).section(keys_of(&visitor, id).await?);
    Ok(if visitor.may(Scope::OperatorWrite) { controls(page, &visitor, &org) } else { page })
}

async fn usage(visitor: &Visitor, id: OrgId) -> Result<Html, ConsoleError> {
    let subsystems = visitor.app.replica_reads();
    let month = Month::of(subsystems.clock.now());
    let usage = analytics::usage(subsystems, month, Some(id), None, 1).await?;
    let of = |field: fn(&UsageView) -> u64| usage.data.first().map_or(0, field);
    let tiles = vec![
        Tile::new("Events this month", grouped(of(|usage| usage.events)), ""),
        Tile::new("Payloads this month", bytes(of(|usage| usage.bytes)), ""),
        Tile::new("Delivered this month", grouped(of(|usage| usage.delivered)), ""),
        Tile::new("Dead this month", grouped(of(|usage| usage.dead)), ""),
    ];
    Ok(Tiles { tiles }.html())
}

fn actions(page: ConsolePage, visitor: &Visitor, org: &Org) -> ConsolePage {
    let button = |label: &str, verb: &str| {
        Button::new(label, format!("{PATH}/{}/{verb}", org.id), &visitor.csrf())
    };
    let mut page = page;
    if org.deletion.is_some() {
        return page;
    }
    if visitor.may(Scope::OperatorImpersonate) {
        page = page.action(button("View as tenant", "view").html());
    }
    match (visitor.may(Scope::OperatorWrite), org.suspended_at) {
        (true, Some(_)) => page.action(button("Resume", "resume").main().html()),
        (true, None) => page.action(button("Suspend", "suspend").html()),
        (false, _) => page,
    }
}

/// The limits, as a form for those who may change them.
fn limits(visitor: &Visitor, org: &Org) -> Html {
    let effective = visitor.app.subsystems().store.effective_limits(org);
    if !visitor.may(Scope::OperatorWrite) {
        let fact = |facts: FactList, (limit, value): (crate::domain::OrgLimit, Option<u32>)| {
            facts.with(
                &limit.name().replace('_', " "),
                value.map_or(Cell::None, |value| Cell::number(value.into())),
            )
        };
        return effective.iter().fold(FactList::new("Limits"), fact).html();
    }
    let form = ConsoleForm::post(format!("{PATH}/{}/limits", org.id), &visitor.csrf(), "Save");
    let form = form.field(FormField::line("name", "Name").value(&*org.name).required());
    let field = |form: ConsoleForm, (limit, value): (crate::domain::OrgLimit, Option<u32>)| {
        let label = limit.name().replace('_', " ");
        let value = value.map(|value| value.to_string()).unwrap_or_default();
        let field = FormField::new(limit.name(), &label, FieldKind::Input("number")).value(value);
        form.field(match effective.get(limit) {
            Some(default) => {
                field.hint(&format!("{} now. Nothing follows the server.", grouped(default.into())))
            }
            None => field.hint("Nothing follows the server, or means no limit."),
        })
    };
    let form = org.limits.iter().fold(form, field);
    Panel::html("Name and limits", vec![form.html()])
}

async fn keys_of(visitor: &Visitor, id: OrgId) -> Result<Html, ConsoleError> {
    let subsystems = visitor.app.reads();
    let request = PageRequest::first(KEYS_SHOWN);
    let found = keys::list_of_org(subsystems, id, request).await?;
    let (now, own) = (subsystems.clock.now(), visitor.open.principal.key_id);
    let keys = found.data.into_iter().map(|key| KeyView::new(key, now));
    Ok(super::keys::table(keys, "/console/operator-keys", own).html())
}

fn controls(page: ConsolePage, visitor: &Visitor, org: &Org) -> ConsolePage {
    let (path, csrf) = (format!("{PATH}/{}", org.id), visitor.csrf());
    let name = FormField::line("name", "Name of the key").required();
    let create = ConsoleForm::post(format!("{path}/keys"), &csrf, "Create key").field(name);
    let create = vec![paragraph("A key of this organisation with all scopes."), create.html()];
    let delete = Button::new("Delete organisation", format!("{path}/delete"), &csrf);
    let delete = delete.danger(
        "Its keys are refused at once, and all its data is deleted in the background, for good.",
    );
    page.section(Panel::html("New key", create))
        .section(Panel::danger("Cannot be taken back", vec![delete.html()]))
}
