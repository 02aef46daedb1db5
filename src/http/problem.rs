//! The problem registry: every error code of the API, with its status, title and remedy.
//!
//! Answers (`respond`), the pages under `/problems/` and the tests of `docs/errors.md` read it.

/// A kind of error, as RFC 9457 problem details describe it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Stable name, for programs. It never changes its meaning.
    pub code: &'static str,
    /// HTTP status of the answer.
    pub status: u16,
    /// Short name, for people.
    pub title: &'static str,
    /// What the caller, or the operator, can do about it.
    pub remedy: &'static str,
}

impl Problem {
    /// The path of its page, which is also its `type`: a relative reference, RFC 9457 section 3.1.1.
    pub fn page(&self) -> String {
        format!("/problems/{}", self.code)
    }
}

/// The problem with this code.
pub(super) fn find(code: &str) -> Option<&'static Problem> {
    PROBLEMS.iter().find(|problem| problem.code == code)
}

macro_rules! problems {
    ($($name:ident: $status:literal, $code:literal, $title:literal, $remedy:literal;)+) => {
        $(pub(super) const $name: Problem =
            Problem { code: $code, status: $status, title: $title, remedy: $remedy };)+

        /// Every problem, by status and code.
        pub const PROBLEMS: &[Problem] = &[$($name),+];
    };
}

problems! {
    AMBIGUOUS_LENGTH: 400, "ambiguous_length", "Ambiguous length",
        "Send `Content-Length` or `Transfer-Encoding`, not both.";
    INCOMPLETE_BODY: 400, "incomplete_body", "Incomplete body",
        "The connection closed before the body was complete. Send the request again.";
    INVALID_HOST: 400, "invalid_host", "Missing or repeated Host",
        "Send the header `Host` once, as HTTP/1.1 requires.";
    MALFORMED_CONTENT_ENCODING: 400, "malformed_content_encoding", "Malformed content encoding",
        "Send a complete stream of the encoding that `Content-Encoding` names, or the body uncompressed and without it.";
    MALFORMED_JSON: 400, "malformed_json", "Malformed JSON",
        "Send valid JSON. `detail` gives line and column of the first syntax error.";
    UNAUTHORIZED: 401, "unauthorized", "Missing or invalid API key",
        "Send a valid key as `X-API-Key: <key>` or `Authorization: Bearer <key>`, not two different ones.";
    KEY_EXPIRES_EARLIER: 403, "key_expires_earlier", "Key expires earlier",
        "A key makes none that outlives it. Use a key that expires later, or never.";
    KEY_IN_GRACE: 403, "key_in_grace", "Key in its grace period",
        "A rotated key manages no keys. Use its successor.";
    OPERATOR_KEY_REQUIRED: 403, "operator_key_required", "Operator key required",
        "The route is for operators. Use an operator's key.";
    ORG_SUSPENDED: 403, "organisation_suspended", "Organisation suspended",
        "Ask the operator. The organisation's data is kept.";
    SCOPE_REQUIRED: 403, "scope_required", "Missing scope",
        "Use a key with the scope that `detail` names.";
    TENANT_KEY_REQUIRED: 403, "tenant_key_required", "Organisation key required",
        "The route is for organisations. Use an organisation's key, not an operator's.";
    NOT_FOUND: 404, "not_found", "Not found",
        "Check path and id: the route does not exist, or the resource does not, or it is not yours.";
    METHOD_NOT_ALLOWED: 405, "method_not_allowed", "Method not allowed",
        "Use a method that the header `Allow` lists.";
    ALREADY_CREATED: 409, "already_created", "Already created",
        "The first request with this `Idempotency-Key` was answered with a key or a secret, which is not kept, or with something that was erased since. `detail` may name what it was for.";
    DEDUP_CONFLICT: 409, "dedup_conflict", "Dedup id of another event",
        "Send the event with a `dedup_id` of its own. `detail` names the stored one.";
    DELIVERY_FINISHED: 409, "delivery_finished", "Delivery finished",
        "Only a pending delivery can be cancelled.";
    ENDPOINT_DISABLED: 409, "endpoint_disabled", "Endpoint disabled",
        "Enable the endpoint, which also sends what was due meanwhile, then retry or replay.";
    ENDPOINT_REMOVED: 409, "endpoint_removed", "Endpoint deleted",
        "The endpoint was deleted. Replay the event to another endpoint.";
    EVENT_REMOVED: 409, "event_removed", "Event removed",
        "The event or its payload is older than it is kept, or was erased, and cannot be sent again.";
    EVENT_UNSTORABLE: 409, "event_unstorable", "Event rejected by the store",
        "The store still rejects the event. `detail` gives the reason.";
    IDEMPOTENCY_IN_PROGRESS: 409, "idempotency_in_progress", "Request in progress",
        "Wait for the answer to the first request with this `Idempotency-Key`, or send it again after `Retry-After`.";
    IN_PROGRESS: 409, "in_progress", "In progress",
        "Wait for the outcome of the attempt, or the end of the cancellation.";
    KEY_EXPIRED: 409, "key_expired", "Key expired",
        "A revoked or expired key cannot be rotated. Create a new one.";
    KEY_ROTATED: 409, "key_rotated", "Key already rotated",
        "The key is in its grace period. Rotate its successor, which `detail` names.";
    NOT_ACKNOWLEDGED: 409, "not_acknowledged", "Event not acknowledged",
        "`detail` says what became of the event. Acknowledge what you have received; replay a dead letter.";
    PULL_ENDPOINT_REQUIRED: 409, "pull_endpoint_required", "Endpoint of kind pull required",
        "The endpoint is for webhooks. Leave `inbox` out for the default inbox, or name an endpoint of kind `pull`.";
    QUOTA_REACHED: 409, "quota_reached", "Quota reached",
        "Remove one, or ask the operator for a higher quota.";
    TOO_MANY_SECRETS: 409, "too_many_secrets", "Too many secrets",
        "Three earlier secrets still sign. Wait until one ends, or rotate with `\"overlap_seconds\": 0`.";
    WEBHOOK_ENDPOINT_REQUIRED: 409, "webhook_endpoint_required", "Webhook endpoint required",
        "The endpoint is an inbox: nothing is sent to it. Fetch its events with `GET /api/inbox?inbox=<id>`.";
    PRECONDITION_FAILED: 412, "precondition_failed", "Changed since it was read",
        "Read the resource again, apply your change to what it is now, and send it with the new `ETag` in `If-Match`.";
    PAYLOAD_TOO_LARGE: 413, "payload_too_large", "Request too large",
        "Send less. `detail` names the limit.";
    UNSUPPORTED_CONTENT_ENCODING: 415, "unsupported_content_encoding", "Unsupported content encoding",
        "Send the body uncompressed or with a `Content-Encoding` that `Accept-Encoding` lists: one of gzip, deflate and zstd.";
    UNSUPPORTED_MEDIA_TYPE: 415, "unsupported_media_type", "Unsupported media type",
        "Send the `Content-Type` that `detail` names.";
    IDEMPOTENCY_KEY_REUSED: 422, "idempotency_key_reused", "Idempotency key reused",
        "Send another request with an `Idempotency-Key` of its own.";
    VALIDATION_FAILED: 422, "validation_failed", "Validation failed",
        "Correct every field that `errors` lists. `pointer` locates each one in the body.";
    BATCH_OVER_DELIVERY_LIMIT: 429, "batch_over_delivery_limit", "Batch exceeds the delivery limit",
        "Send smaller batches. A batch that would become more deliveries than the limit allows at once never passes.";
    BATCH_OVER_MONTH: 429, "batch_over_month", "Batch exceeds the monthly quota",
        "Send smaller batches: `detail` tells how many events are left this month. The same batch passes after `Retry-After`; without that header it never does.";
    BATCH_OVER_RATE_LIMIT: 429, "batch_over_rate_limit", "Batch exceeds the rate limit",
        "Send smaller batches. A batch with more events than the burst limit never passes.";
    BYTE_RATE_LIMITED: 429, "byte_rate_limited", "Byte rate limit exceeded",
        "Wait `Retry-After` seconds. `RateLimit` tells how many bytes are left.";
    DELIVERY_RATE_LIMITED: 429, "delivery_rate_limited", "Delivery limit exceeded",
        "Wait `Retry-After` seconds. `RateLimit` tells how many deliveries are left. Fewer matching endpoints make fewer deliveries; an operator can raise `deliveries_per_minute`.";
    EVENT_TYPE_RATE_LIMITED: 429, "event_type_rate_limited", "Rate limit of the event type exceeded",
        "Wait `Retry-After` seconds. `RateLimit` tells how many events of this type are left; other types pass.";
    JOURNAL_SHARE_USED_UP: 429, "journal_share_used_up", "Share of the journal used up",
        "Your events that wait to be stored use up your share of the journal. Try again after `Retry-After`.";
    KEY_RATE_LIMITED: 429, "key_rate_limited", "Rate limit of the key exceeded",
        "Wait `Retry-After` seconds. `RateLimit` tells how many events are left for this key.";
    MONTH_USED_UP: 429, "month_used_up", "Monthly quota exceeded",
        "Wait until the next month (UTC), when `Retry-After` ends, or ask the operator.";
    RATE_LIMITED: 429, "rate_limited", "Rate limit exceeded",
        "Wait `Retry-After` seconds. `RateLimit` tells how many events are left.";
    READ_RATE_LIMITED: 429, "read_rate_limited", "Too many reads per minute",
        "Wait `Retry-After` seconds. `RateLimit` tells how many reads are left. Larger pages take fewer.";
    TOO_MANY_ANSWER_BYTES: 429, "too_many_answer_bytes", "Too many unread answers",
        "Read the answers that you have asked for, then try again after `Retry-After`. Smaller pages help.";
    TOO_MANY_BODY_BYTES: 429, "too_many_body_bytes", "Too many bodies in flight",
        "Send fewer or smaller requests at once. Nothing was accepted. Try again after `Retry-After`.";
    TOO_MANY_FAILED_KEYS: 429, "too_many_failed_keys", "Too many invalid keys",
        "Your address sent too many invalid keys. Wait `Retry-After` seconds, or use a key that this server has seen before.";
    TOO_MANY_READS: 429, "too_many_reads", "Too many reads at once",
        "Wait for the answers to earlier reads, then try again.";
    TOO_MANY_STREAMS: 429, "too_many_streams", "Too many streams open",
        "End a long poll, stream or export first. One long poll with a larger `limit` does for several.";
    WRITE_RATE_LIMITED: 429, "write_rate_limited", "Too many changes",
        "Wait `Retry-After` seconds. `RateLimit` tells how many changes by the management API are left.";
    INTERNAL: 500, "internal", "Internal error",
        "Report the `trace_id` to the operator, who finds the cause in the log under it.";
    ANSWER_BYTES_EXHAUSTED: 503, "answer_bytes_exhausted", "Answer memory exhausted",
        "Clients have not read their answers. Try again after `Retry-After`.";
    AUTH_UNAVAILABLE: 503, "auth_unavailable", "Authentication unavailable",
        "Keys cannot be verified or created now. Try again after `Retry-After`.";
    BODY_BYTES_EXHAUSTED: 503, "body_bytes_exhausted", "Body memory exhausted",
        "Nothing was accepted. Try again after `Retry-After`.";
    JOURNAL_BUSY: 503, "journal_busy", "Journal busy",
        "Nothing was accepted. Try again after `Retry-After`.";
    JOURNAL_FULL: 503, "journal_full", "Journal full",
        "Nothing was accepted. Try again after `Retry-After`.";
    JOURNAL_UNAVAILABLE: 503, "journal_unavailable", "Journal unavailable",
        "Nothing was accepted. Try again after `Retry-After`. `detail` tells whether the server restarts first.";
    READ_TIMEOUT: 503, "read_timeout", "Read timed out",
        "Narrow the filter: name a shorter time with `since` and `until`, or fewer filters at once. The same read is likely to time out again.";
    REQUEST_TIMEOUT: 503, "request_timeout", "Request timed out",
        "The request may have taken effect. Try again; give events a `dedup_id` to make that safe.";
    SECRETS_UNREADABLE: 503, "secrets_unreadable", "Secrets unreadable",
        "Tell the operator: the server's `SECRETS_KEY` lacks the key that encrypts the secrets.";
    SHUTTING_DOWN: 503, "shutting_down", "Server shutting down",
        "Nothing was accepted. Try again after `Retry-After`, or another server.";
    STORAGE_LOW: 503, "storage_low", "Disk space low",
        "Nothing was accepted. Try again after `Retry-After`; the operator must make room.";
    STORE_UNAVAILABLE: 503, "store_unavailable", "Store unavailable",
        "Try again after `Retry-After`.";
    STREAMS_EXHAUSTED: 503, "streams_exhausted", "Streams exhausted",
        "Try again after `Retry-After`, or another server. Requests that do not wait are answered all the same.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_is_sorted_and_has_each_code_once() {
        let keys: Vec<_> = PROBLEMS.iter().map(|problem| (problem.status, problem.code)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
        let mut codes: Vec<_> = PROBLEMS.iter().map(|problem| problem.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), PROBLEMS.len());
    }
}
