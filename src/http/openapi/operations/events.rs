//! Posting and reading events, and inboxes.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { Events:
    /// Post one event
    ///
    /// The 202 comes once the event is on stable storage. It appears in lists a moment later. `data` and `metadata` are
    /// accepted as aliases of `payload`, `event_id` as one of `dedup_id`.
    ///
    /// An `Idempotency-Key` is the `dedup_id` of an event that has none.
    POST_EVENT "postEvent" [DEDUP_CONFLICT, READ_RATE_LIMITED, TOO_MANY_READS]
        r#"{"type": "invoice.paid", "payload": {"id": "in_1", "total": 12.50}, "dedup_id": "in_1-paid", "account_id": "acme", "user_id": "u_7", "timestamp": "2026-01-31T12:00:00Z"}"#;
    /// Post 1 to 1000 events
    ///
    /// All or none are accepted; errors list every violation with the event's `index`. Newline-delimited JSON has one
    /// event per line.
    POST_EVENTS "postEvents" [BATCH_OVER_MONTH, BATCH_OVER_RATE_LIMIT]
        r#"[{"type": "invoice.paid", "payload": {"id": "in_1"}}, {"type": "invoice.paid", "payload": {"id": "in_2"}}]"#;
    /// Post any body
    ///
    /// A JSON body becomes the payload byte for byte. Any other body becomes a payload with `content_type` and `base64`.
    /// Headers take the place of the fields of an event.
    POST_RAW_EVENT "postRawEvent" [DEDUP_CONFLICT, READ_RATE_LIMITED, TOO_MANY_READS] r#"{"ref": "refs/heads/main"}"#;
    /// Post any body, by another path
    ///
    /// The same as `POST /api/events/raw`.
    POST_RAW_EVENT_ALIAS "postRawEventAlias" [DEDUP_CONFLICT, READ_RATE_LIMITED, TOO_MANY_READS]
        r#"{"ref": "refs/heads/main"}"#;
    /// List events
    ///
    /// From the newest to the oldest, or with `order=asc` from the oldest on. Payloads only with `include=payload`.
    LIST_EVENTS "listEvents" [];
    /// Stream events
    ///
    /// Every event that the filters select, as newline-delimited JSON, however many. The last line has `next_cursor`,
    /// which is `null` unless the export ended early.
    EXPORT_EVENTS "exportEvents" [TOO_MANY_STREAMS, STREAMS_EXHAUSTED];
    /// Follow what happens, as server-sent events
    ///
    /// Events that are stored, deliveries of which an attempt has ended, and dead letters, as they come.
    STREAM_CHANGES "streamChanges" [TOO_MANY_STREAMS, STREAMS_EXHAUSTED];
    /// Show an event with its deliveries
    GET_EVENT "getEvent" [];
    /// Deliver an event again
    ///
    /// To one endpoint, or to every endpoint that received it. Creates new deliveries.
    REPLAY_EVENT "replayEvent" [ENDPOINT_DISABLED, ENDPOINT_REMOVED, EVENT_REMOVED, IN_PROGRESS, WEBHOOK_ENDPOINT_REQUIRED]
        "{}";
}

operations! { Inboxes:
    /// Receive events
    ///
    /// What was received is hidden from other consumers until it is acknowledged, given back, or its visibility time is
    /// over. `wait` makes a long poll. The first request opens the default inbox.
    RECEIVE_EVENTS "receiveEvents" [
        ENDPOINT_DISABLED, PULL_ENDPOINT_REQUIRED, QUOTA_REACHED, NOT_FOUND, READ_RATE_LIMITED, TOO_MANY_READS,
        TOO_MANY_STREAMS, STREAMS_EXHAUSTED
    ];
    /// Acknowledge up to 1000 received events
    ACKNOWLEDGE_EVENTS "acknowledgeEvents" [PULL_ENDPOINT_REQUIRED, NOT_FOUND, TOO_MANY_READS];
    /// Acknowledge a received event
    ACKNOWLEDGE_EVENT "acknowledgeEvent" [PULL_ENDPOINT_REQUIRED, NOT_ACKNOWLEDGED, TOO_MANY_READS];
    /// Give received events back
    RETURN_EVENTS "returnEvents" [PULL_ENDPOINT_REQUIRED, NOT_FOUND, TOO_MANY_READS];
}
