//! Health of this server: a report for people, and two probes for orchestrators and load balancers.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use url::form_urlencoded;

use crate::api::views::{
    DeliveryHealthView, DiskView, HealthReport, Liveness, QueueView, Readiness, ReadinessChecks,
    StageHealth, StoreView, StrictChecks, Totals,
};
use crate::delivery::WebhookResult;
use crate::http::request::{Flag, Input, RequestSchema, parameter};
use crate::http::respond::{Json, Unavailable};
use crate::http::state::AppState;
use crate::journal::JournalState;
use crate::runtime::DiskLevel;
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
        writable: journal.state == JournalState::Open,
        journal: journal_code(journal.state),
        oldest_seconds: health.oldest_unplanned.map(|age| age.as_secs()),
        planning: health.planning(stall_after),
    };
    let store = StoreView { reachable: store_answers(&app).await };
    let disk = app.intake.disk();
    let disk = DiskView { status: disk_code(disk.level()), free_bytes: disk.free_bytes() };
    let delivery = DeliveryHealthView {
        status: health.delivery(stall_after),
        oldest_due_seconds: health.oldest_due.age().map(|age| age.as_secs()),
        dispatcher_seconds: health.dispatcher.as_secs(),
        recorder: health.recorder(stall_after),
        recorder_seconds: health.recording.map(|age| age.as_secs()),
    };
    let stages = [queue.planning, delivery.status, delivery.recorder];
    let progress = stages.iter().all(|stage| *stage == StageHealth::Ok);
    let is_ok = queue.writable && store.reachable && disk.status == "ok" && progress;
    Json(HealthReport {
        status: if is_ok { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: app.uptime().as_secs(),
        queue,
        store,
        disk,
        delivery,
        totals: totals(&app),
        memory_bytes: process_memory_bytes(),
    })
}

/// `GET /health/live`: 200 as long as the process answers at all.
pub(in crate::http) async fn live() -> Json<Liveness> {
    Json(Liveness { status: "live" })
}

/// `GET /health/ready`: 200 while this server takes events, else 503 with the check that failed. What happens
/// to them afterwards counts with `?strict` alone: while the store is away, a server that takes events is better
/// than none.
pub(in crate::http) async fn ready(
    State(app): State<AppState>,
    Probe { strict }: Probe,
) -> Result<Json<Readiness>, Unavailable<Readiness>> {
    let (journal, stopping) = (app.intake.status().state, app.shutdown.is_requested());
    let strict = if strict { Some(strict_checks(&app).await) } else { None };
    let is_full = app.intake.disk().level() == DiskLevel::Full;
    let checks = ReadinessChecks {
        journal: journal_code(journal),
        disk: if is_full { disk_code(DiskLevel::Full) } else { "ok" },
        process: if stopping { "shutting_down" } else { "ok" },
        strict,
    };
    if journal == JournalState::Open && !is_full && !stopping && strict.is_none_or(gets_through) {
        return Ok(Json(Readiness { status: "ready", checks }));
    }
    Err(Unavailable(Readiness { status: "unready", checks }))
}

/// The query of a probe. It is answered whatever else it sends.
pub(in crate::http) struct Probe {
    /// Whether the query has `strict`, with any value but `0` and `false`.
    strict: bool,
}

impl Probe {
    fn of(query: &str) -> Self {
        let mut parameters = form_urlencoded::parse(query.as_bytes());
        let strict = parameters
            .any(|(name, value)| name == "strict" && !matches!(value.as_ref(), "0" | "false"));
        Self { strict }
    }
}

impl<S: Sync> FromRequestParts<S> for Probe {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts.uri.query().unwrap_or_default()))
    }
}

impl Input for Probe {
    fn describe(schema: &mut RequestSchema) {
        let doc = "Whether store, planning, delivery and recorder count, too.";
        schema.query.push(parameter::<Flag>("strict", doc));
    }
}

async fn strict_checks(app: &AppState) -> StrictChecks {
    let store = store_answers(app).await;
    let health = app.pipeline_health().await;
    let stall_after = app.settings().stall_after;
    StrictChecks {
        store: if store { "ok" } else { "unreachable" },
        planning: health.planning(stall_after),
        delivery: health.delivery(stall_after),
        recorder: health.recorder(stall_after),
    }
}

/// Whether the store answers, and has been started: one whose disk is full can be read, and nothing works with it.
async fn store_answers(app: &AppState) -> bool {
    app.store_started.is_open() && app.store_is_reachable().await
}

fn gets_through(checks: StrictChecks) -> bool {
    let stages = [checks.planning, checks.delivery, checks.recorder];
    checks.store == "ok" && stages.iter().all(|stage| *stage == StageHealth::Ok)
}

const fn disk_code(level: DiskLevel) -> &'static str {
    match level {
        DiskLevel::Ok => "ok",
        DiskLevel::Low => "low",
        DiskLevel::Full => "storage_low",
    }
}

const fn journal_code(state: JournalState) -> &'static str {
    match state {
        JournalState::Open => "ok",
        JournalState::Stalled => "stalled",
        JournalState::Poisoned => "poisoned",
        JournalState::Full => "full",
        JournalState::NoSegment => "no_segment",
        JournalState::Closed => "closed",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_is_a_flag_and_other_parameters_are_ignored() {
        for query in ["strict", "strict=", "strict=1", "strict=true", "a=b&strict"] {
            assert!(Probe::of(query).strict, "{query}");
        }
        for query in ["", "strict=0", "strict=false", "stricter", "a=strict"] {
            assert!(!Probe::of(query).strict, "{query}");
        }
    }
}
