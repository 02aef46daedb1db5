//! This server: whether events get through it, and what it has counted.

use axum::extract::State;

use crate::api::views::{HealthReport, StageHealth};
use crate::domain::Scope;
use crate::http::console::failure::ConsoleError;
use crate::http::console::ui::{Cell, ConsolePage, FactList, Tone, bytes, span};
use crate::http::console::visitor::Visitor;
use crate::http::respond::Json;
use crate::http::routes::health;

/// `GET /console/server`.
pub(in crate::http::console) async fn show(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let Json(report) = health::report(State(visitor.app.clone())).await;
    let HealthReport {
        status,
        version,
        uptime_seconds,
        queue,
        store,
        disk,
        delivery,
        totals,
        memory_bytes,
    } = report;
    let seconds =
        |age: Option<u64>| age.map_or(Cell::text("nothing waits"), |age| Cell::text(span(age)));
    let size = |size: Option<u64>| size.map_or(Cell::None, |size| Cell::text(bytes(size)));
    let state = FactList::new("State")
        .with("Health", word(status))
        .with("Version", Cell::code(version))
        .with("Runs for", Cell::text(span(uptime_seconds)))
        .with("Memory", size(memory_bytes))
        .with("Database", if store.reachable { word("ok") } else { word("does not answer") })
        .with("Disk", word(disk.status))
        .with_some("Free on disk", size(disk.free_bytes))
        .refreshed("state", visitor.here(), true);
    let pipeline = FactList::new("Pipeline")
        .with("Journal", word(queue.journal))
        .with("Events in the journal", Cell::number(queue.events))
        .with("Bytes in the journal", Cell::text(bytes(queue.bytes)))
        .with("Oldest in the journal", seconds(queue.oldest_seconds))
        .with("Planning", stage(queue.planning))
        .with("Delivery", stage(delivery.status))
        .with("Oldest due delivery", seconds(delivery.oldest_due_seconds))
        .with("Dispatcher's heartbeat", Cell::text(span(delivery.dispatcher_seconds)))
        .with("Recorder", stage(delivery.recorder))
        .refreshed("pipeline", visitor.here(), true);
    let counts = FactList::new("Counted since the start")
        .with("Events accepted", Cell::number(totals.ingested))
        .with("Events stored", Cell::number(totals.stored))
        .with("Duplicates dropped", Cell::number(totals.duplicates))
        .with("Events rejected by the database", Cell::number(totals.unstorable))
        .with("Deliveries planned", Cell::number(totals.planned))
        .with("Delivered", Cell::number(totals.delivered))
        .with("Attempts to be repeated", Cell::number(totals.retried))
        .with("Given up", Cell::number(totals.dead))
        .refreshed("counts", visitor.here(), true);
    let page = visitor
        .page("Server")
        .lead("The server that answers this page. Others have pages of their own.");
    Ok(page.section(state.html()).section(pipeline.html()).section(counts.html()))
}

fn word(word: &str) -> Cell {
    let tone = if word == "ok" { Tone::Good } else { Tone::Bad };
    Cell::badge(tone, word.replace('_', " "))
}

fn stage(stage: StageHealth) -> Cell {
    let name = serde_json::to_value(stage).unwrap_or_default();
    word(name.as_str().unwrap_or("unknown"))
}
