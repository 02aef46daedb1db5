//! Health of this server: a report for people, and two probes for orchestrators and load balancers.

use axum::extract::State;
use axum::http::StatusCode;

use crate::api::views::{
    DeliveryHealthView, HealthReport, Liveness, QueueView, Readiness, ReadinessChecks, StageHealth,
    StoreView, Totals,
};
use crate::delivery::WebhookResult;
use crate::http::respond::Json;
use crate::http::state::AppState;
use crate::journal::JournalStatus;
use crate::telemetry::process_memory_bytes;

/// `GET /api/health`: always 200, since it is a report. A degraded process may still accept events:
/// the journal is made for store outages.
pub(in crate::http) async fn report(State(app): State<AppState>) -> Json<HealthReport> {
    let journal = app.intake.status();
    let health = app.pipeline_health().await;
    let stall_after = app.settings().stall_after;
    let queue = QueueView {
        events: journal.items_waiting,
        bytes: journal.bytes,
        writable: journal.writable,
        oldest_seconds: health.oldest_unplanned.map(|age| age.as_secs()),
        planning: health.planning(stall_after),
    };
    let store = StoreView { reachable: app.store_is_reachable().await };
    let delivery = DeliveryHealthView {
        status: health.delivery(stall_after),
        oldest_due_seconds: health.oldest_due.age().map(|age| age.as_secs()),
        dispatcher_seconds: health.dispatcher.as_secs(),
    };
    let progress = queue.planning == StageHealth::Ok && delivery.status == StageHealth::Ok;
    Json(HealthReport {
        status: if queue.writable && store.reachable && progress { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs(),
        queue,
        store,
        delivery,
        totals: totals(&app),
        memory_bytes: process_memory_bytes(),
    })
}

/// `GET /health/live`: 200 as long as the process answers at all.
pub(in crate::http) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "live" })
}

/// `GET /health/ready`: 200 if requests should be sent here, else 503 with the check that failed.
pub(in crate::http) async fn ready(
    State(app): State<AppState>,
) -> Result<Json<Readiness>, (StatusCode, Json<Readiness>)> {
    let (journal, process) = (app.intake.status(), !app.shutdown.is_requested());
    let store = app.store_is_reachable().await;
    let health = app.pipeline_health().await;
    let stall_after = app.settings().stall_after;
    let code = |ok, wrong| if ok { "ok" } else { wrong };
    let checks = ReadinessChecks {
        journal: journal_code(journal),
        store: code(store, "unreachable"),
        process: code(process, "shutting_down"),
        planning: health.planning(stall_after),
        delivery: health.delivery(stall_after),
    };
    let progress = checks.planning == StageHealth::Ok && checks.delivery == StageHealth::Ok;
    if journal.writable && store && process && progress {
        return Ok(Json(Readiness { status: "ready", checks }));
    }
    Err((StatusCode::SERVICE_UNAVAILABLE, Json(Readiness { status: "unready", checks })))
}

const fn journal_code(journal: JournalStatus) -> &'static str {
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
