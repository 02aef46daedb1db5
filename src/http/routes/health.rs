//! How the process is: a report for people, and two probes for whoever starts and routes.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::delivery::WebhookResult;
use crate::http::error::ApiError;
use crate::http::pipeline_health::StageHealth;
use crate::http::respond;
use crate::http::state::AppState;
use crate::journal::JournalStatus;
use crate::telemetry::process_memory_bytes;

/// What `GET /api/health` reports.
#[derive(Serialize)]
struct Report {
    /// `ok`, or `degraded` when the journal takes nothing, the store does not answer, or events do
    /// not get through.
    status: &'static str,
    version: &'static str,
    uptime_seconds: u64,
    queue: Queue,
    store: Store,
    delivery: Delivery,
    totals: Totals,
    /// Resident memory; null where the system does not tell.
    memory_bytes: Option<u64>,
}

/// What waits in the journal for the store.
#[derive(Serialize)]
struct Queue {
    events: u64,
    bytes: u64,
    /// Whether the journal takes more.
    writable: bool,
    /// How long the oldest event waits to become deliveries, in seconds; null when none waits.
    oldest_seconds: Option<u64>,
    /// `ok`, or what is wrong.
    planning: StageHealth,
}

/// How deliveries get on.
#[derive(Serialize)]
struct Delivery {
    /// `ok`, or what is wrong.
    status: StageHealth,
    /// How long the oldest due delivery waits that nobody holds, in seconds; null when none does,
    /// or the store does not say.
    oldest_due_seconds: Option<u64>,
    /// Since the dispatcher last gave a sign of life, in seconds.
    dispatcher_seconds: u64,
}

#[derive(Serialize)]
struct Store {
    reachable: bool,
}

/// Counts since the process started.
#[derive(Serialize)]
struct Totals {
    ingested: u64,
    stored: u64,
    duplicates: u64,
    unstorable: u64,
    planned: u64,
    delivered: u64,
    retried: u64,
    dead: u64,
}

/// What `GET /health/ready` found, each `ok` or what is wrong.
#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    checks: Checks,
}

#[derive(Serialize)]
struct Checks {
    journal: &'static str,
    store: &'static str,
    process: &'static str,
    planning: StageHealth,
    delivery: StageHealth,
}

/// `GET /api/health`: always 200, since it is a report. A degraded process may still take events:
/// a store outage is what the journal is for.
pub(in crate::http) async fn report(State(app): State<AppState>) -> Result<Response, ApiError> {
    let journal = app.intake.status();
    let health = app.pipeline_health().await;
    let stall_after = app.settings().stall_after;
    let queue = Queue {
        events: journal.items_waiting,
        bytes: journal.bytes,
        writable: journal.writable,
        oldest_seconds: health.oldest_unplanned.map(|age| age.as_secs()),
        planning: health.planning(stall_after),
    };
    let store = Store { reachable: app.store_is_reachable().await };
    let delivery = Delivery {
        status: health.delivery(stall_after),
        oldest_due_seconds: health.oldest_due.age().map(|age| age.as_secs()),
        dispatcher_seconds: health.dispatcher.as_secs(),
    };
    let flows = queue.planning == StageHealth::Ok && delivery.status == StageHealth::Ok;
    respond::ok(&Report {
        status: if queue.writable && store.reachable && flows { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs(),
        queue,
        store,
        delivery,
        totals: totals(&app),
        memory_bytes: process_memory_bytes(),
    })
}

/// `GET /health/live`: 200 as long as anything is answered at all.
pub(in crate::http) async fn live() -> Response {
    respond::json_bytes(StatusCode::OK, r#"{"status":"live"}"#)
}

/// `GET /health/ready`: 200 when requests should be sent here, else 503 with the check that failed.
pub(in crate::http) async fn ready(State(app): State<AppState>) -> Result<Response, ApiError> {
    let (journal, process) = (app.intake.status(), !app.shutdown.is_requested());
    let store = app.store_is_reachable().await;
    let health = app.pipeline_health().await;
    let stall_after = app.settings().stall_after;
    let told = |ok, wrong| if ok { "ok" } else { wrong };
    let checks = Checks {
        journal: journal_word(journal),
        store: told(store, "unreachable"),
        process: told(process, "shutting_down"),
        planning: health.planning(stall_after),
        delivery: health.delivery(stall_after),
    };
    let flows = checks.planning == StageHealth::Ok && checks.delivery == StageHealth::Ok;
    if journal.writable && store && process && flows {
        return respond::ok(&Readiness { status: "ready", checks });
    }
    respond::json(StatusCode::SERVICE_UNAVAILABLE, &Readiness { status: "unready", checks })
}

const fn journal_word(journal: JournalStatus) -> &'static str {
    match journal {
        JournalStatus { writable: true, .. } => "ok",
        JournalStatus { poisoned: true, .. } => "poisoned",
        JournalStatus { full: true, .. } => "full",
        JournalStatus { .. } => "closed",
    }
}

fn totals(app: &AppState) -> Totals {
    let m = &app.metrics;
    Totals {
        ingested: m.http.events_ingested_total.get(),
        stored: m.ingest.events_stored_total.get(),
        duplicates: m.ingest.events_duplicate_total.get(),
        unstorable: m.ingest.events_unstorable_total.get(),
        planned: m.ingest.deliveries_planned_total.get(),
        delivered: m.delivery.webhook_deliveries_total.of(WebhookResult::Delivered).get(),
        retried: m.delivery.webhook_deliveries_total.of(WebhookResult::Retried).get(),
        dead: m.delivery.webhook_deliveries_total.of(WebhookResult::Dead).get(),
    }
}
