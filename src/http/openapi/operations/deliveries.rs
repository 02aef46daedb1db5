//! Deliveries.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { Deliveries:
    /// List deliveries
    LIST_DELIVERIES "listDeliveries" [];
    /// Stream deliveries
    ///
    /// Every delivery that the filters select, as newline-delimited JSON, however many.
    EXPORT_DELIVERIES "exportDeliveries" [TOO_MANY_STREAMS, STREAMS_EXHAUSTED];
    /// Show a delivery with every attempt
    GET_DELIVERY "getDelivery" [];
    /// Make a delivery due now
    ///
    /// With `wait`, the answer has the outcome of the attempt, if it ends in time.
    RETRY_DELIVERY "retryDelivery" [
        ENDPOINT_DISABLED, ENDPOINT_REMOVED, EVENT_REMOVED, IN_PROGRESS, TOO_MANY_STREAMS, STREAMS_EXHAUSTED
    ];
    /// Deliver again, as a new delivery
    REPLAY_DELIVERY "replayDelivery" [ENDPOINT_DISABLED, ENDPOINT_REMOVED, EVENT_REMOVED, IN_PROGRESS];
    /// Cancel a delivery while it is pending
    CANCEL_DELIVERY "cancelDelivery" [DELIVERY_FINISHED, IN_PROGRESS];
}
