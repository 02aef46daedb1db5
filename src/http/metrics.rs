//! Metrics of the HTTP API, and those of other subsystems that it shows.

use std::sync::Arc;

use crate::delivery::DeliveryMetrics;
use crate::ingest::IngestMetrics;
use crate::telemetry::{
    Counter, CounterBy, CounterByText, FAST_SECONDS, Gauge, Histogram, ProcessMetrics, Registry,
    SLOW_SECONDS, label, metrics,
};

metrics! {
    /// Metrics of the HTTP API.
    pub struct HttpMetrics {
        /// Time from the arrival of a request with events to its 202, in seconds.
        @core event_ingestion_latency_seconds: Histogram = SLOW_SECONDS,
        /// Time to verify an API key, in seconds.
        @core auth_latency_seconds: Histogram = FAST_SECONDS,
        /// Time to check a rate limit, in seconds.
        @core rate_limit_check_latency_seconds: Histogram = FAST_SECONDS,
        /// Events acknowledged with 202.
        @core events_ingested_total: Counter,
        /// Requests rejected before their events were accepted, by reason.
        @core rejected_requests_total: CounterBy<RejectedRequest>,
        /// Violations found in posted events, by their code.
        @core validation_errors_total: CounterByText = &["type"],
        /// Requests answered, by the path of the route as in the API's documentation, or `unmatched`.
        @core hookgate_http_requests_total: CounterByText = &["method", "route", "status"],
        /// Connections of clients that are open.
        @core hookgate_connections_open: Gauge,
        /// Memory for request bodies that are being received or accepted, in bytes.
        hookgate_request_body_bytes_in_flight: Gauge,
        /// Events received from inboxes, each time that one was.
        hookgate_inbox_received_total: Counter,
        /// Events of inboxes that were acknowledged.
        hookgate_inbox_acked_total: Counter,
        /// Events of inboxes that were given back.
        hookgate_inbox_returned_total: Counter,
        /// Events of inboxes that were received `max_receives` times and became dead letters.
        hookgate_inbox_exhausted_total: Counter,
        /// Long polls, event streams and exports that are open.
        hookgate_streams_open: Gauge,
        /// Memory for answers that are not written to their clients yet, in bytes.
        hookgate_answer_bytes_in_flight: Gauge,
        /// Time that the oldest due delivery has waited without a server that holds it, in seconds; 0
        /// if there is none. Endpoints whose circuit breaker is open on this server are left out.
        @core oldest_due_delivery_age_seconds: Gauge,
        /// Time that the oldest accepted event has waited to become deliveries, in seconds; 0 if there
        /// is none.
        @core oldest_unplanned_event_age_seconds: Gauge,
        /// Time since the last heartbeat of the dispatcher, in seconds.
        dispatcher_heartbeat_age_seconds: Gauge,
        /// Time since the store last answered a claim or recorded outcomes, in seconds.
        @core delivery_progress_age_seconds: Gauge,
        /// How long the outcomes at hand have been waiting to be recorded, in seconds; 0 if there are none.
        hookgate_recorder_age_seconds: Gauge,
    }
}

label! {
    /// The reason why a request was rejected.
    pub enum RejectedRequest by "reason" {
        /// The API key is missing or invalid.
        Unauthorized = "unauthorized",
        /// The address presented too many invalid keys.
        Throttled = "throttled",
        /// The organisation is over its rate limit.
        RateLimited = "rate_limited",
        /// As many reads of the caller as may be are in progress.
        TooManyReads = "too_many_reads",
        /// As many long polls, streams and exports as may be are open.
        TooManyStreams = "too_many_streams",
        /// The organisation's events that wait to be stored use up its share of the journal.
        JournalShare = "journal_share",
        /// The journal is full, poisoned or busy.
        JournalUnavailable = "journal_unavailable",
        /// Too little disk space is free.
        StorageLow = "storage_low",
        /// Too many bytes of bodies were in flight.
        BodyBytes = "body_bytes",
        /// Too many bytes of answers were in flight.
        AnswerBytes = "answer_bytes",
    }
}

/// The metrics that the API counts or shows.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// All metrics of the process, for `GET /metrics`.
    pub registry: Arc<Registry>,
    /// Its own.
    pub http: Arc<HttpMetrics>,
    /// Totals of the health report; an endpoint's test counts here too.
    pub ingest: Arc<IngestMetrics>,
    /// Totals of the health report.
    pub delivery: Arc<DeliveryMetrics>,
    /// Read when they are shown.
    pub process: Arc<ProcessMetrics>,
}

impl HttpMetrics {
    /// Counts a violation. `code` is the program's word, never a caller's.
    pub(super) fn count_violation(&self, code: &'static str) {
        self.validation_errors_total.with_label_values(&[code]).inc();
    }
}
