//! The Prometheus registry: every metric of the process, by name, in base units, with bounded labels.
//!
//! Label values are resolved to their child once, here, so that counting in the way of a request is
//! an atomic add and no look-up.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use crate::domain::ErrorClass;

/// The process's metrics. One per process; shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Time from a request's arrival to its `202`, in seconds.
    pub event_ingestion_latency_seconds: Histogram,
    /// Time to verify a key, in seconds.
    pub auth_latency_seconds: Histogram,
    /// Argon2id hashes computed to verify keys: one for each good key of a process, or nearly so.
    pub auth_hashes_total: IntCounter,
    /// Time to decide on a rate limit, in seconds.
    pub rate_limit_check_latency_seconds: Histogram,
    /// Events acknowledged with `202`.
    pub events_ingested_total: IntCounter,
    /// Events that became a row.
    pub events_stored_total: IntCounter,
    /// Events dropped because their `dedup_id` was taken.
    pub events_duplicate_total: IntCounter,
    /// Events that the store refused for their content.
    pub events_unstorable_total: IntCounter,
    /// Deliveries planned.
    pub deliveries_planned_total: IntCounter,
    /// Appends in the journal that are not stored yet.
    pub event_queue_size: IntGauge,
    /// Bytes of journal segments on disk.
    pub journal_bytes: IntGauge,
    /// Appends a sync of the journal covers.
    pub journal_group_appends: Histogram,
    /// Time of one write and sync of the journal, in seconds.
    pub journal_sync_seconds: Histogram,
    /// Webhooks in flight.
    pub webhooks_in_flight: IntGauge,
    /// Endpoints whose circuit breakers are open on this server.
    pub endpoint_breakers_open: IntGauge,
    /// Deliveries held in memory.
    pub delivery_queue_size: IntGauge,
    /// How long the oldest due delivery waits that nobody holds, in seconds; read at the scrape.
    pub oldest_due_delivery_age_seconds: IntGauge,
    /// How long the oldest accepted event waits to become deliveries, in seconds; read at the scrape.
    pub oldest_unplanned_event_age_seconds: IntGauge,
    /// Since the dispatcher last gave a sign of life, in seconds; read at the scrape.
    pub dispatcher_heartbeat_age_seconds: IntGauge,
    /// Since the store last answered a claim or took outcomes, in seconds; read at the scrape.
    pub delivery_progress_age_seconds: IntGauge,
    /// Time from an attempt's start to the end of the answer, in seconds.
    pub webhook_attempt_seconds: Histogram,
    db_operations: Vec<Histogram>,
    cache_lookups: Vec<IntCounter>,
    webhook_deliveries: Vec<IntCounter>,
    webhook_errors: Vec<IntCounter>,
    rejected_requests: Vec<IntCounter>,
    validation_errors: IntCounterVec,
}

/// Declares an enum whose variants are the values of one label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            const VALUES: &'static [&'static str] = &[$($text),+];
        }
    };
}

label!(
    /// What was asked of the store; the `operation` label of `db_operations_latency_seconds`.
    DbOperation {
        /// A batch of events with their deliveries.
        PersistEvents = "persist_events",
        /// Due deliveries, leased.
        ClaimDeliveries = "claim_deliveries",
        /// Outcomes of attempts.
        RecordOutcomes = "record_outcomes",
        /// A key for authentication.
        FindKey = "find_key",
    }
);

label!(
    /// How the key cache answered; the `result` label of `cache_lookups_total`.
    CacheLookup {
        /// From memory.
        Hit = "hit",
        /// The store was asked.
        Miss = "miss",
    }
);

label!(
    /// How an attempt ended; the `status` label of `webhook_deliveries_total`.
    WebhookResult {
        /// 2xx.
        Delivered = "delivered",
        /// Failed; there will be another attempt.
        Retried = "retried",
        /// Failed for the last time.
        Dead = "dead",
    }
);

label!(
    /// Why a request was turned away; the `reason` label of `rejected_requests_total`.
    RejectedRequest {
        /// No key, or one that does not hold.
        Unauthorized = "unauthorized",
        /// From an address that presented too many keys that do not hold.
        Throttled = "throttled",
        /// Over the organisation's rate limit.
        RateLimited = "rate_limited",
        /// The journal is full, poisoned or busy.
        JournalUnavailable = "journal_unavailable",
    }
);

/// From a microsecond, where a limit check or cached key lies, to seconds.
const FAST_BUCKETS: &[f64] =
    &[1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5];
/// From a tenth of a millisecond, where a synced write lies, to the request timeout.
const SLOW_BUCKETS: &[f64] = &[
    1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
const COUNT_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

impl Metrics {
    /// Registers every metric in a registry of its own.
    ///
    /// # Errors
    /// When two metrics share a name, which a unit test rules out.
    #[expect(clippy::too_many_lines, reason = "a list with an entry for each metric")]
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        let db = histogram_vec(&r, "db_operations_latency_seconds", "Store calls", "operation")?;
        let cache = counter_vec(&r, "cache_lookups_total", "Key cache look-ups", "result")?;
        let webhooks = counter_vec(&r, "webhook_deliveries_total", "Webhook attempts", "status")?;
        let errors =
            counter_vec(&r, "webhook_errors_total", "Webhook attempts that failed", "class")?;
        let rejected = counter_vec(&r, "rejected_requests_total", "Refused requests", "reason")?;
        Ok(Self {
            event_ingestion_latency_seconds: histogram(
                &r,
                "event_ingestion_latency_seconds",
                "Time from a request's arrival to its 202",
                SLOW_BUCKETS,
            )?,
            auth_latency_seconds: histogram(
                &r,
                "auth_latency_seconds",
                "Time to verify an API key",
                FAST_BUCKETS,
            )?,
            auth_hashes_total: counter(
                &r,
                "auth_hashes_total",
                "Argon2id hashes computed to verify and to make API keys",
            )?,
            rate_limit_check_latency_seconds: histogram(
                &r,
                "rate_limit_check_latency_seconds",
                "Time to decide on a rate limit",
                FAST_BUCKETS,
            )?,
            events_ingested_total: counter(&r, "events_ingested_total", "Events acknowledged")?,
            events_stored_total: counter(&r, "events_stored_total", "Events stored")?,
            events_duplicate_total: counter(
                &r,
                "events_duplicate_total",
                "Events dropped because their dedup_id was taken",
            )?,
            events_unstorable_total: counter(
                &r,
                "events_unstorable_total",
                "Events that the store refused for their content",
            )?,
            deliveries_planned_total: counter(
                &r,
                "deliveries_planned_total",
                "Deliveries planned",
            )?,
            event_queue_size: gauge(&r, "event_queue_size", "Appends not stored yet")?,
            journal_bytes: gauge(&r, "journal_bytes", "Bytes of journal segments on disk")?,
            journal_group_appends: histogram(
                &r,
                "journal_group_appends",
                "Appends covered by one sync of the journal",
                COUNT_BUCKETS,
            )?,
            journal_sync_seconds: histogram(
                &r,
                "journal_sync_seconds",
                "Time of one write and sync of the journal",
                SLOW_BUCKETS,
            )?,
            webhooks_in_flight: gauge(&r, "webhooks_in_flight", "Webhooks in flight")?,
            endpoint_breakers_open: gauge(
                &r,
                "endpoint_breakers_open",
                "Endpoints left alone because they do not answer",
            )?,
            delivery_queue_size: gauge(&r, "delivery_queue_size", "Deliveries held in memory")?,
            oldest_due_delivery_age_seconds: gauge(
                &r,
                "oldest_due_delivery_age_seconds",
                "How long the oldest due delivery waits that nobody holds; 0 when none does",
            )?,
            oldest_unplanned_event_age_seconds: gauge(
                &r,
                "oldest_unplanned_event_age_seconds",
                "How long the oldest accepted event waits to become deliveries; 0 when none does",
            )?,
            dispatcher_heartbeat_age_seconds: gauge(
                &r,
                "dispatcher_heartbeat_age_seconds",
                "Since the dispatcher last gave a sign of life",
            )?,
            delivery_progress_age_seconds: gauge(
                &r,
                "delivery_progress_age_seconds",
                "Since the store last answered a claim or took outcomes",
            )?,
            webhook_attempt_seconds: histogram(
                &r,
                "webhook_attempt_seconds",
                "Time from an attempt's start to the end of the answer",
                SLOW_BUCKETS,
            )?,
            db_operations: children(DbOperation::VALUES, |v| db.with_label_values(&[v])),
            cache_lookups: children(CacheLookup::VALUES, |v| cache.with_label_values(&[v])),
            webhook_deliveries: children(WebhookResult::VALUES, |v| {
                webhooks.with_label_values(&[v])
            }),
            webhook_errors: children(
                &ErrorClass::ALL.iter().map(|class| class.as_str()).collect::<Vec<_>>(),
                |v| errors.with_label_values(&[v]),
            ),
            rejected_requests: children(RejectedRequest::VALUES, |v| {
                rejected.with_label_values(&[v])
            }),
            validation_errors: counter_vec(
                &r,
                "validation_errors_total",
                "Broken rules in posted events, by the rule's code",
                "type",
            )?,
            registry: r,
        })
    }

    /// The histogram of one kind of store call, in seconds.
    pub fn db_operation(&self, operation: DbOperation) -> &Histogram {
        &self.db_operations[operation as usize]
    }

    /// The counter of look-ups that ended so.
    pub fn cache_lookup(&self, result: CacheLookup) -> &IntCounter {
        &self.cache_lookups[result as usize]
    }

    /// The counter of attempts that failed at this.
    pub fn webhook_error(&self, class: ErrorClass) -> &IntCounter {
        &self.webhook_errors[class as usize]
    }

    /// The counter of attempts that ended so.
    pub fn webhook_result(&self, result: WebhookResult) -> &IntCounter {
        &self.webhook_deliveries[result as usize]
    }

    /// The counter of requests turned away for this reason.
    pub fn rejected_request(&self, reason: RejectedRequest) -> &IntCounter {
        &self.rejected_requests[reason as usize]
    }

    /// Counts a broken rule. `code` is a `Violation`'s code: a word of the program, never of a caller.
    pub fn count_violation(&self, code: &'static str) {
        self.validation_errors.with_label_values(&[code]).inc();
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    /// When a metric cannot be written as text.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The process's resident memory in bytes; `None` where the system has no `/proc`.
pub fn process_memory_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn children<T>(values: &[&'static str], child: impl Fn(&'static str) -> T) -> Vec<T> {
    values.iter().copied().map(child).collect()
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let metric = IntCounter::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    let metric = Histogram::with_opts(options)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counter_vec(
    r: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), &[label])?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram_vec(
    r: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<HistogramVec, prometheus::Error> {
    let options = HistogramOpts::new(name, help).buckets(SLOW_BUCKETS.to_vec());
    let metric = HistogramVec::new(options, &[label])?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_once_and_renders() {
        let metrics = Metrics::new().unwrap();
        metrics.events_ingested_total.inc_by(3);
        metrics.cache_lookup(CacheLookup::Miss).inc();
        metrics.count_violation("required");
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(text.contains("events_ingested_total 3"));
        assert!(text.contains("cache_lookups_total{result=\"miss\"} 1"));
        assert!(text.contains("cache_lookups_total{result=\"hit\"} 0"));
        assert!(text.contains("validation_errors_total{type=\"required\"} 1"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_is_known() {
        assert!(process_memory_bytes().unwrap() > 1_000_000);
    }
}
