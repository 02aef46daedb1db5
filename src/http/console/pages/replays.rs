//! Bulk replays and removals of dead letters, with their progress.

use axum::response::Response;
use serde_json::{Map, Value};

use crate::api::replays;
use crate::domain::{
    DeadLetterFilter, PageRequest, Replay, ReplayAction, ReplayId, ReplayStatus, Scope,
};
use crate::http::console::failure::{ConsoleError, see_other};
use crate::http::console::posted::{FormData, PostedForm, number, time};
use crate::http::console::ui::{
    Button, Cell, ConsolePage, DataTable, FactList, Html, Tone, changing, grouped,
};
use crate::http::console::visitor::Visitor;
use crate::http::extract::Id;
use crate::http::request::{QueryFields, wire_name};
use crate::http::routes::dead_letters::DeadLetterQuery;
use crate::http::routes::replays::DeadLetterSelection;

const PATH: &str = "/console/replays";
/// Replays below the dead letters.
const SHOWN: u32 = 5;

/// The filters of dead letters, all of which select what is done to many at once.
pub(super) fn selecting() -> impl Iterator<Item = &'static str> {
    DeadLetterQuery::IDENTS.iter().map(|ident| wire_name(ident))
}

/// The latest replays, as a table.
pub(super) async fn latest(visitor: &Visitor) -> Result<Html, ConsoleError> {
    let org = visitor.org(Scope::EventsRead)?;
    let request = PageRequest::first(SHOWN);
    let found = replays::list(visitor.app.reads(), org, request).await?;
    if found.data.is_empty() {
        return Ok(Html::default());
    }
    let row = |replay: &Replay| {
        vec![
            Cell::link(format!("{PATH}/{}", replay.id), action(replay)),
            status(replay.status),
            Cell::Number(progress(replay)),
            Cell::time(replay.created_at),
        ]
    };
    let table = DataTable::new("Latest replays", &["Replay", "State", "#Done", "Begun"]);
    Ok(table.rows(found.data.iter().map(row)).html())
}

fn action(replay: &Replay) -> &'static str {
    match replay.action {
        ReplayAction::Replay => "Replay of dead letters",
        ReplayAction::Discard => "Removal of dead letters",
    }
}

fn status(status: ReplayStatus) -> Cell {
    let tone = match status {
        ReplayStatus::Running => Tone::Wait,
        ReplayStatus::Finished => Tone::Good,
        ReplayStatus::Cancelled => Tone::Plain,
        ReplayStatus::Failed => Tone::Bad,
    };
    Cell::badge(tone, status.as_str())
}

fn progress(replay: &Replay) -> String {
    let total = replay.total.map_or("many".to_owned(), grouped);
    format!("{} of {total}", grouped(replay.done + replay.skipped))
}

/// `GET /console/replays/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<ReplayId>,
) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let replay = replays::one(visitor.app.reads(), reach, id).await?;
    let mut page = visitor.page(action(&replay)).crumb("/console/dead-letters", "Dead letters");
    let is_running = replay.status == ReplayStatus::Running;
    if is_running && visitor.may(Scope::EndpointsManage) {
        page = page
            .action(Button::new("Cancel", format!("{PATH}/{id}/cancel"), &visitor.csrf()).html());
    }
    let facts = FactList::new("")
        .with("State", status(replay.status))
        .with("Progress", Cell::Number(progress(&replay)))
        .with("Skipped", Cell::number(replay.skipped))
        .with_some("Detail", Cell::maybe(replay.detail.as_deref()))
        .with("Begun", Cell::time(replay.created_at))
        .with_some("Finished", Cell::maybe_time(replay.finished_at));
    Ok(page.section(changing(&visitor.here(), is_running, vec![facts.html()])))
}

/// The dead letters that a form selects.
fn selection(visitor: &Visitor, form: &FormData) -> Result<DeadLetterFilter, ConsoleError> {
    let value = |name: &'static str, text: &str| match name {
        "status_code" => number(Some(text)),
        "since" | "until" => Value::from(time(text)),
        "replayed" => text.parse().map_or_else(|_| Value::from(text), Value::Bool),
        _ => Value::from(text),
    };
    let named = selecting().filter_map(|name| Some((name, form.some(name)?)));
    let body: Map<String, Value> =
        named.map(|(name, text)| (name.to_owned(), value(name, text))).collect();
    let selection: DeadLetterSelection = FormData::fields(visitor, body)?;
    Ok(selection.into())
}

/// `POST /console/dead-letters/replay`.
pub(in crate::http::console) async fn start(
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let filter = selection(&visitor, &form)?;
    let replay = replays::start(visitor.app.subsystems(), reach, &filter, &by).await?;
    Ok(see_other(&format!("{PATH}/{}", replay.id)))
}

/// `POST /console/dead-letters/discard`.
pub(in crate::http::console) async fn discard(
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let filter = selection(&visitor, &form)?;
    let job = replays::start_discard(visitor.app.subsystems(), reach, &filter, &by).await?;
    Ok(see_other(&format!("{PATH}/{}", job.id)))
}

/// `POST /console/replays/{id}/cancel`.
pub(in crate::http::console) async fn cancel(
    Id(id): Id<ReplayId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    replays::cancel(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=cancelled")))
}
