//! The attempter: makes one attempt, decides what follows and reports the outcome to the recorder.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::delivery::metrics::DeliveryMetrics;
use crate::delivery::metrics::WebhookResult;
use crate::domain::{
    Attempt, DeadReason, Decision, ErrorClass, LeasedDelivery, RetrySchedule, Timestamp,
};
use crate::runtime::Clock;
use crate::telemetry::{OrgLines, Tracer};

use super::attempt_span::attempt_span;
use super::breaker::AttemptSignal;
use super::dispatch::Dispatch;
use super::outcome_report::OutcomeReport;
use super::retry;
use super::sender::Sender;

/// Deliveries that became dead letters.
static DEAD_LETTERS: OrgLines = OrgLines::new();

/// Makes attempts and reports their outcomes. Shared by all attempts in flight.
#[derive(Debug)]
pub(super) struct Attempter {
    pub(super) sender: Sender,
    /// The retry schedule of endpoints that set none.
    pub(super) schedule: RetrySchedule,
    /// How long an endpoint may fail continuously before it is disabled.
    pub(super) disable_after: Duration,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<DeliveryMetrics>,
    pub(super) tracer: Tracer,
    /// Counts the outcomes that are not recorded yet.
    pub(super) dispatch: Dispatch,
    pub(super) reports: mpsc::Sender<OutcomeReport>,
}

/// The end of an attempt, for the dispatcher.
#[derive(Debug)]
pub(super) struct FinishedAttempt {
    /// Whether the endpoint answered 410 Gone and is being disabled.
    pub(super) gone: bool,
    /// The signal for the endpoint's breaker.
    pub(super) signal: AttemptSignal,
    /// The delivery, if the attempt was not made: its lease is to be released.
    pub(super) not_made: Option<Box<LeasedDelivery>>,
}

impl Attempter {
    /// Attempts a delivery. Returns once the recorder's queue has taken the outcome, which waits while the
    /// queue is full.
    pub(super) async fn attempt(&self, delivery: LeasedDelivery) -> FinishedAttempt {
        let Some(result) = self.sender.send(&delivery, &self.clock).await else {
            let not_made = Some(Box::new(delivery));
            return FinishedAttempt { gone: false, signal: AttemptSignal::NotMade, not_made };
        };
        let (started_at, took) = (result.started_at, result.took);
        let decided_at = self.clock.now();

        let number = delivery.attempts.saturating_add(1);
        let fraction = if result.failure.is_some() { random_fraction() } else { 0.0 };
        let schedule = delivery.endpoint.policy.retry_schedule.as_ref().unwrap_or(&self.schedule);
        let response = result.response();
        let decision = retry::decide(schedule, number, response, decided_at, fraction);
        let signal = AttemptSignal::of(result.status, retry::hold(response, decided_at));
        let (error_class, error) =
            result.failure.map(|failure| (failure.class, failure.text)).unzip();
        if let Some(class) = error_class {
            self.metrics.webhook_errors_total.of(class).inc();
        }
        let attempt = Attempt {
            number,
            started_at,
            duration_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
            status_code: result.status,
            error_class,
            error,
            response_excerpt: result.excerpt,
        };
        self.metrics.webhook_attempt_seconds.observe(took.as_secs_f64());
        self.metrics.webhook_deliveries_total.of(metric_label(&decision)).inc();
        // A delivery that was planned with its event is as old as that; one of a replay was created later.
        let is_first_hand = delivery.id.created_at() <= delivery.event.received_at;
        if decision == Decision::Delivered && is_first_hand {
            let took = decided_at.since(delivery.event.received_at);
            self.metrics.hookgate_event_delivery_seconds.observe(took.as_secs_f64());
        }
        if let Some(parent) = delivery.event.accept_span {
            self.tracer.record(|| attempt_span(&delivery, &attempt, parent, took));
        }
        log(&delivery, &attempt, &decision);

        let gone = decision == Decision::Dead(DeadReason::Gone);
        self.report(OutcomeReport {
            outcome: delivery.outcome(
                Some(attempt),
                self.scheduled(decision, decided_at),
                decided_at,
                decided_at.minus(self.disable_after),
            ),
            ordered: delivery.ordered,
        })
        .await;
        FinishedAttempt { gone, signal, not_made: None }
    }

    /// The decision of a wall-clock time, with its retry by the schedule time.
    fn scheduled(&self, decision: Decision, decided_at: Timestamp) -> Decision {
        match decision {
            Decision::RetryAt(at) => {
                Decision::RetryAt(self.clock.schedule().plus(at.since(decided_at)))
            }
            final_one => final_one,
        }
    }

    async fn report(&self, report: OutcomeReport) {
        // Before it waits for room in the queue.
        self.dispatch.backlog().report();
        // The recorder outlives every attempt except at a hard stop. The lease then lapses.
        let _ = self.reports.send(report).await;
    }
}

fn metric_label(decision: &Decision) -> WebhookResult {
    match decision {
        Decision::Delivered => WebhookResult::Delivered,
        Decision::RetryAt(_) => WebhookResult::Retried,
        Decision::Dead(_) => WebhookResult::Dead,
    }
}

/// Logs a failed attempt, and that a delivery is a dead letter once per organisation and minute. Only with ids: a URL may carry a secret in its query.
fn log(delivery: &LeasedDelivery, attempt: &Attempt, decision: &Decision) {
    let (org, endpoint) = (delivery.event.org_id, delivery.endpoint.id);
    let id = delivery.id;
    let number = attempt.number;
    let status = attempt.status_code;
    let (class, error) = (attempt.error_class.map(ErrorClass::as_str), attempt.error.as_deref());
    if *decision == Decision::Delivered {
        return;
    }
    let trace_id = &delivery.event.trace_id;
    tracing::debug!(%org, %endpoint, delivery = %id, %trace_id, number, status, class, error,
        ?decision, "webhook attempt failed");
    if let Decision::Dead(reason) = decision
        && let Some(unlogged) = DEAD_LETTERS.due(org)
    {
        tracing::warn!(%org, %endpoint, delivery = %id, %trace_id, number, status, class, error,
            %reason, unlogged, "delivery became a dead letter");
    }
}

/// A random number from 0 to 1, for the jitter. 0 if the system has no random source: a retry without jitter
/// is better than none.
fn random_fraction() -> f64 {
    getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX))
}
