//! Endpoints.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { Endpoints:
    /// Create an endpoint
    ///
    /// The answer has the signing secret, which `GET /api/endpoints/{id}/secret` shows later, too.
    CREATE_ENDPOINT "createEndpoint" [QUOTA_REACHED]
        r#"{"url": "https://example.com/hooks", "event_types": ["invoice.*"], "description": "Billing"}"#;
    /// List endpoints
    LIST_ENDPOINTS "listEndpoints" [];
    /// Show an endpoint
    GET_ENDPOINT "getEndpoint" [];
    /// Change an endpoint
    ///
    /// A JSON merge patch: what is left out stays, `null` resets. What was read may be sent back.
    UPDATE_ENDPOINT "updateEndpoint" [] r#"{"event_types": ["invoice.*", "user.login"], "max_concurrency": 4}"#;
    /// Remove an endpoint and cancel its pending deliveries
    DELETE_ENDPOINT "deleteEndpoint" [];
    /// Show the secrets of an endpoint
    ///
    /// It costs one of the limit of changes, and the audit log has an entry for it.
    GET_ENDPOINT_SECRET "getEndpointSecret" [
        SECRETS_UNREADABLE, WEBHOOK_ENDPOINT_REQUIRED, WRITE_RATE_LIMITED
    ];
    /// Replace the secret of an endpoint
    ///
    /// The old one signs beside the new one for `overlap_seconds`.
    ROTATE_ENDPOINT_SECRET "rotateEndpointSecret" [
        SECRETS_UNREADABLE, TOO_MANY_SECRETS, WEBHOOK_ENDPOINT_REQUIRED
    ] r#"{"overlap_seconds": 3600}"#;
    /// Send a test event
    ///
    /// Its delivery shows the outcome. With `wait`, the answer does, if the attempt ends in time.
    TEST_ENDPOINT "testEndpoint" [
        ENDPOINT_DISABLED, WEBHOOK_ENDPOINT_REQUIRED, RATE_LIMITED, KEY_RATE_LIMITED, EVENT_TYPE_RATE_LIMITED,
        DELIVERY_RATE_LIMITED, MONTH_USED_UP, STORAGE_LOW, TOO_MANY_STREAMS, STREAMS_EXHAUSTED
    ] r#"{"type": "invoice.paid"}"#;
    /// Replay the dead letters of an endpoint
    REPLAY_ENDPOINT "replayEndpoint" [ENDPOINT_DISABLED, WEBHOOK_ENDPOINT_REQUIRED];
    /// Cancel the pending deliveries of an endpoint
    CANCEL_PENDING_DELIVERIES "cancelPendingDeliveries" [IN_PROGRESS];
    /// List the attempts at deliveries to an endpoint
    LIST_ENDPOINT_ATTEMPTS "listEndpointAttempts" [];
    /// Count how deliveries to an endpoint ended in the last hour and day
    GET_ENDPOINT_STATS "getEndpointStats" [];
}
