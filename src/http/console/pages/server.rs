//! The servers: whether events get through the one that answers, what it has counted and set aside, and the others.

use axum::extract::State;

use crate::api::servers;
use crate::api::views::{
    HealthReport, QuarantineEntryView, QuarantineView, ServerView, StageHealth,
};
use crate::domain::Scope;
use crate::http::console::failure::ConsoleError;
use crate::http::console::ui::{
    Cell, ConsolePage, DataTable, FactList, Html, Panel, Tone, bytes, changing, span,
};
use crate::http::console::visitor::Visitor;
use crate::http::respond::Json;
use crate::http::routes::health;

/// Entries of the quarantine that are shown.
const QUARANTINE_MAX: usize = 20;

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
        .with_some("Free on disk", size(disk.free_bytes));
    let pipeline = FactList::new("Pipeline")
        .with("Journal", word(queue.journal))
        .with("Events in the journal", Cell::number(queue.events))
        .with("Bytes in the journal", Cell::text(bytes(queue.bytes)))
        .with("Oldest in the journal", seconds(queue.oldest_seconds))
        .with("Planning", stage(queue.planning))
        .with("Delivery", stage(delivery.status))
        .with("Oldest due delivery", seconds(delivery.oldest_due_seconds))
        .with("Dispatcher's heartbeat", Cell::text(span(delivery.dispatcher_seconds)))
        .with("Recorder", stage(delivery.recorder));
    let counts = FactList::new("Counted since the start")
        .with("Events accepted", Cell::number(totals.ingested))
        .with("Events stored", Cell::number(totals.stored))
        .with("Duplicates dropped", Cell::number(totals.duplicates))
        .with("Events rejected by the database", Cell::number(totals.unstorable))
        .with("Deliveries planned", Cell::number(totals.planned))
        .with("Delivered", Cell::number(totals.delivered))
        .with("Attempts to be repeated", Cell::number(totals.retried))
        .with("Given up", Cell::number(totals.dead));
    let page = visitor
        .page("Servers")
        .lead("The server that answers this page, and the others that work with its database.");
    let page = page.section(changing(
        &visitor.here(),
        true,
        vec![state.html(), pipeline.html(), counts.html()],
    ));
    let quarantine = visitor.app.intake.quarantined(QUARANTINE_MAX).await;
    let quarantine = quarantine.map(|contents| QuarantineView::new(contents, None));
    let page = match &quarantine {
        Ok(quarantine) => page.section(set_aside(quarantine)),
        Err(error) => {
            page.section(Panel::warning(&format!("The quarantine cannot be read: {error}")))
        }
    };
    // This page is for when the database is away, too.
    Ok(match servers::list(visitor.app.reads()).await {
        Ok(all) => page.section(all_servers(&all.data)),
        Err(_) => page
            .section(Panel::warning("The database does not tell which other servers there are.")),
    })
}

/// What the journal of this server has set aside.
fn set_aside(quarantine: &QuarantineView) -> Html {
    let row = |entry: &QuarantineEntryView| {
        vec![
            Cell::maybe(entry.segment.as_deref()),
            entry.offset.map_or(Cell::None, Cell::number),
            Cell::text(bytes(entry.bytes)),
            entry.records.map_or(Cell::None, Cell::number),
            Cell::maybe(entry.file.as_deref()),
        ]
    };
    let more = if quarantine.has_more { ", of which these are the first" } else { "" };
    let caption = format!(
        "Set aside by the journal: {} files, {}{more}",
        quarantine.files,
        bytes(quarantine.bytes)
    );
    let table = DataTable::new(
        caption,
        &["Segment", "Offset", "Bytes", "Records lost", "File in damaged/"],
    );
    table
        .rows(quarantine.data.iter().map(row))
        .empty("Nothing", "The journal could read all it wrote.")
        .html()
}

fn all_servers(servers: &[ServerView]) -> Html {
    let row = |server: &ServerView| {
        let state = if server.alive { word("ok") } else { word("no heartbeat") };
        let id = if server.this { format!("{} (this one)", server.id) } else { server.id.clone() };
        vec![
            Cell::code(id),
            Cell::text(&*server.host),
            Cell::code(&server.version),
            Cell::time(server.started_at),
            Cell::time(server.heartbeat_at),
            state,
        ]
    };
    let columns = ["Server", "Host", "Version", "Started", "Last heartbeat", "State"];
    DataTable::new("Servers", &columns)
        .rows(servers.iter().map(row))
        .empty("None has registered", "")
        .html()
}

fn word(word: &str) -> Cell {
    let tone = if word == "ok" { Tone::Good } else { Tone::Bad };
    Cell::badge(tone, word.replace('_', " "))
}

fn stage(stage: StageHealth) -> Cell {
    let name = serde_json::to_value(stage).unwrap_or_default();
    word(name.as_str().unwrap_or("unknown"))
}
