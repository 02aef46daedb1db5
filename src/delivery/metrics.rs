//! Metrics of delivery.

use crate::domain::ErrorClass;
use crate::telemetry::{
    Counter, CounterBy, DELIVERY_SECONDS, Gauge, Histogram, Label, SLOW_SECONDS, label, metrics,
};

metrics! {
    /// Metrics of delivery.
    pub struct DeliveryMetrics {
        /// Deliveries held in memory.
        @core delivery_queue_size: Gauge,
        /// Webhooks in flight.
        @core webhooks_in_flight: Gauge,
        /// Endpoints whose circuit breaker is open on this server.
        @core endpoint_breakers_open: Gauge,
        /// Time from the start of an attempt to the status of the response, or to its failure, in seconds.
        @core webhook_attempt_seconds: Histogram = SLOW_SECONDS,
        /// Time from the acceptance of an event to the 2xx of a receiver, waits between attempts included, in seconds.
        /// Replays are left out.
        @core hookgate_event_delivery_seconds: Histogram = DELIVERY_SECONDS,
        /// Attempts by result.
        @core webhook_deliveries_total: CounterBy<WebhookResult>,
        /// Endpoints whose row, or whose due deliveries, could not be read; counted at each try. Their deliveries wait.
        hookgate_endpoints_unreadable_total: Counter,
        /// Requests that HTTP/2 receivers did not process and that were sent again within their attempt.
        hookgate_webhook_resends_total: Counter,
        /// Failed attempts by cause.
        @core webhook_errors_total: CounterBy<ErrorClass>,
        /// Look-ups of host names by result; answers from the cache are not counted.
        hookgate_dns_lookups_total: CounterBy<LookupResult>,
        /// Look-ups that wait for a permit: their organisation, or all together, have as many in flight as they may.
        hookgate_dns_lookups_waiting: Gauge,
        /// Look-ups in flight.
        hookgate_dns_lookups_in_flight: Gauge,
        /// Time of a look-up, without the wait for a permit, in seconds.
        hookgate_dns_lookup_seconds: Histogram = SLOW_SECONDS,
    }
}

label! {
    /// The result of a look-up.
    pub enum LookupResult by "result" {
        /// The name has addresses.
        Found = "found",
        /// The name does not exist, or has no address.
        NotFound = "not_found",
        /// A name server answered with an error, or none can be asked.
        Failed = "failed",
        /// No answer within `DNS_TIMEOUT`.
        TimedOut = "timed_out",
        /// No permit in time; the delivery was put back.
        NotStarted = "not_started",
    }
}

label! {
    /// The result of an attempt.
    pub enum WebhookResult by "status" {
        /// The receiver answered 2xx.
        Delivered = "delivered",
        /// The attempt failed; another one follows.
        Retried = "retried",
        /// The last attempt failed.
        Dead = "dead",
    }
}

impl Label for ErrorClass {
    const NAME: &'static str = "class";

    fn values() -> Vec<&'static str> {
        Self::ALL.iter().map(|class| class.as_str()).collect()
    }

    fn index(self) -> usize {
        self as usize
    }
}
