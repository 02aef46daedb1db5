//! What each error says to its caller, in words.

use std::fmt;

use super::byte_budget::Exhausted;
use super::error::ApiError;
use super::rate_limit_detail;
use super::stream_limits::StreamsExhausted;
use crate::auth::AuthError;
use crate::domain::{KeyRotationRefusal, SecretRotationRefusal, SettleStatus, Violation};
use crate::ingest::AcceptError;
use crate::journal::AppendError;
use crate::store::{DeliveryRefusal, StoreError};

/// The detail of this occurrence, in one sentence for people. It never shows an internal cause.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedJson(error) => f.write_str(error),
            Self::Invalid(violations) => write_violations(f, violations),
            Self::TooLarge { what, bytes_max } => {
                write!(f, "{what} may have at most {bytes_max} bytes")
            }
            Self::EventTooLarge { payload_bytes_max, body_bytes_max } => write!(
                f,
                "a payload may have at most {payload_bytes_max} bytes, and the body {body_bytes_max}"
            ),
            Self::UnsupportedMediaType { taken } => {
                write!(f, "send the header Content-Type: {taken}")
            }
            Self::BodyBytes(exhausted) => write_exhausted(f, "request bodies", *exhausted),
            Self::AnswerBytes(exhausted) => write_exhausted(f, "answers", *exhausted),
            Self::AlreadyCreated { id: Some(id) } => {
                write!(f, "the first request with this Idempotency-Key has been answered, for {id}")
            }
            Self::DedupConflict(id) => {
                write!(f, "the event {id} has this dedup id and another content")
            }
            Self::Auth(error) => write_auth(f, error),
            Self::ScopeRequired(scopes) => write!(f, "the key needs the scope {scopes}"),
            Self::MonthUsedUp { events_per_month, .. } => {
                write!(f, "the quota of {events_per_month} events per month (UTC) is used up")
            }
            Self::BatchOverMonth { events_per_month, left, events, .. } => write!(
                f,
                "the batch has {events} events; {left} of {events_per_month} are left this month \
                 (UTC); send smaller batches"
            ),
            Self::RateLimited { bucket, quota, retry_after } => {
                rate_limit_detail::write(f, bucket, *quota, *retry_after)
            }
            Self::OverBurst { bucket, quota, cost } => {
                rate_limit_detail::write_over_burst(f, bucket, *quota, *cost)
            }
            Self::TooManyReads { reads_max } => write!(
                f,
                "{reads_max} reads are in progress, which is as many as may be at once; wait for \
                 their answers"
            ),
            Self::Streams(StreamsExhausted::Share(most)) => write!(
                f,
                "{most} long polls, streams and exports are open, which is as many as may be at once"
            ),
            Self::RouteNotFound(Some(path)) => {
                write!(f, "there is no such route; did you mean {path}?")
            }
            Self::StillRefused(why) => f.write_str(why),
            Self::Accept(error) => write_accept(f, error),
            Self::Delivery(refusal) => f.write_str(delivery_detail(*refusal)),
            Self::InboxDisabled(reason) => write!(f, "the inbox is disabled: {reason}"),
            Self::NotAcknowledged(status) => f.write_str(not_acknowledged(*status)),
            Self::QuotaReached { what, most } => {
                write!(f, "the organisation may have at most {most} {what} ({what}_max)")
            }
            Self::Rotation(SecretRotationRefusal::NotFound)
            | Self::KeyRotation(KeyRotationRefusal::NotFound) => f.write_str(NOT_FOUND),
            Self::Rotation(refusal) => write!(f, "{refusal}"),
            Self::KeyRotation(refusal) => write!(f, "{refusal}"),
            _ => f.write_str(fixed(self)),
        }
    }
}

/// The detail of an error that always has the same.
fn fixed(error: &ApiError) -> &'static str {
    match error {
        ApiError::IncompleteBody => "the body ended before it was complete",
        ApiError::UnsupportedEncoding => {
            "send the body uncompressed or with Content-Encoding: gzip, deflate or zstd"
        }
        ApiError::MalformedEncoding => {
            "the body is not what Content-Encoding says, its zstd window exceeds 8 MiB, or it has more than 1,024 gzip members"
        }
        ApiError::IdempotencyInProgress => {
            "a request with this Idempotency-Key is running; wait for its answer"
        }
        ApiError::IdempotencyKeyReused => "this Idempotency-Key was used for another path or body",
        ApiError::AlreadyCreated { id: None } => {
            "the first request with this Idempotency-Key has been answered"
        }
        ApiError::KeyMissing => "send your API key as X-API-Key, or as Authorization: Bearer",
        ApiError::KeyInvalid => "the API key is invalid or expired",
        ApiError::OperatorKeyRequired => {
            "this route is for operators; the key belongs to an organisation"
        }
        ApiError::TenantKeyRequired => {
            "this route is for organisations; the key belongs to an operator"
        }
        ApiError::KeyInGrace => {
            "the key was rotated and is in its grace period; use its successor to manage keys"
        }
        ApiError::KeyExpiresEarlier => {
            "your key expires before the new one would; use one that does not"
        }
        ApiError::OrgSuspended => "the operator has suspended the organisation; its data is kept",
        ApiError::RouteNotFound(None) => "there is no such route",
        ApiError::InvalidHost => "send the header Host once",
        ApiError::AmbiguousLength => "send Content-Length or Transfer-Encoding, not both",
        ApiError::MethodNotAllowed => "use a method that the header Allow lists",
        ApiError::IssueBusy => "too many keys are being created; nothing was done, try again",
        ApiError::Streams(_) => {
            "as many long polls, streams and exports are open as this server allows; try again"
        }
        ApiError::TimedOut => {
            "the answer was not ready in time; the request may still have taken effect"
        }
        ApiError::NotAnInbox => {
            "the endpoint is for webhooks; events are fetched from endpoints of kind pull"
        }
        ApiError::NotAWebhook => {
            "the endpoint is an inbox: nothing is sent to it, so it has no secret and no test event"
        }
        ApiError::NotFound => NOT_FOUND,
        ApiError::Store(StoreError::Unavailable(_)) => "the store does not answer; try again",
        ApiError::Store(StoreError::Changed) => {
            "somebody has changed it since you read it: its ETag is not the one in If-Match"
        }
        ApiError::Store(StoreError::ReadTimedOut) => {
            "the read took too long and was ended; name a shorter time with since and until, or \
             fewer filters at once"
        }
        ApiError::Store(StoreError::Refused(_) | StoreError::Corrupt(_))
        | ApiError::Internal(_)
        // The others say what they hold. They are named, so that a new one is not forgotten.
        | ApiError::MalformedJson(_)
        | ApiError::Invalid(_)
        | ApiError::TooLarge { .. }
        | ApiError::EventTooLarge { .. }
        | ApiError::UnsupportedMediaType { .. }
        | ApiError::BodyBytes(_)
        | ApiError::AnswerBytes(_)
        | ApiError::AlreadyCreated { id: Some(_) }
        | ApiError::DedupConflict(_)
        | ApiError::Auth(_)
        | ApiError::ScopeRequired(_)
        | ApiError::MonthUsedUp { .. }
        | ApiError::BatchOverMonth { .. }
        | ApiError::RateLimited { .. }
        | ApiError::OverBurst { .. }
        | ApiError::TooManyReads { .. }
        | ApiError::RouteNotFound(Some(_))
        | ApiError::StillRefused(_)
        | ApiError::InboxDisabled(_)
        | ApiError::NotAcknowledged(_)
        | ApiError::Accept(_)
        | ApiError::Delivery(_)
        | ApiError::QuotaReached { .. }
        | ApiError::Rotation(_)
        | ApiError::KeyRotation(_) => INTERNAL,
    }
}

const NOT_FOUND: &str = "there is no resource with this id, or it is not yours";
const INTERNAL: &str = "the operator finds the cause in the log under the trace id";

fn write_exhausted(f: &mut fmt::Formatter<'_>, what: &str, exhausted: Exhausted) -> fmt::Result {
    match exhausted {
        Exhausted::Share => {
            write!(f, "too many bytes of your {what} are in flight; nothing was done")
        }
        Exhausted::Total => write!(f, "too many bytes of {what} are in flight; nothing was done"),
    }
}

/// The violation itself if there is one, since many clients log nothing but the detail.
fn write_violations(f: &mut fmt::Formatter<'_>, violations: &[Violation]) -> fmt::Result {
    match violations {
        [only] if only.field.is_empty() => f.write_str(&only.message),
        [only] => match only.index {
            Some(index) => write!(f, "event {index}: {} {}", only.field, only.message),
            None => write!(f, "{} {}", only.field, only.message),
        },
        many => write!(f, "{} fields are invalid, see errors", many.len()),
    }
}

fn write_auth(f: &mut fmt::Formatter<'_>, error: &AuthError) -> fmt::Result {
    match error {
        AuthError::Malformed | AuthError::Unknown | AuthError::WrongSecret | AuthError::Expired => {
            fmt::Display::fmt(&ApiError::KeyInvalid, f)
        }
        AuthError::Unavailable(_) => f.write_str("keys cannot be verified now; try again"),
        AuthError::Busy => f.write_str("too many keys are being verified; try again"),
        AuthError::Throttled { .. } => f.write_str(
            "too many keys from your address were invalid; this server accepts only keys that it \
             has seen before from there, for now",
        ),
    }
}

fn write_accept(f: &mut fmt::Formatter<'_>, error: &AcceptError) -> fmt::Result {
    f.write_str(match error {
        AcceptError::Journal(AppendError::Full) => {
            "the store is behind and the journal is full; nothing was accepted"
        }
        AcceptError::Journal(AppendError::ShareUsedUp) => {
            "your events that wait to be stored use up your share of the journal; nothing was accepted"
        }
        AcceptError::Journal(AppendError::Busy) => {
            "too many requests wait for the journal; nothing was accepted"
        }
        AcceptError::Journal(AppendError::NoSegment) => {
            "the journal cannot be extended now; nothing was accepted, try again"
        }
        AcceptError::Journal(AppendError::Poisoned) => {
            "a journal write failed; the server accepts nothing until it has restarted"
        }
        AcceptError::Journal(AppendError::Closed) => {
            "the server is shutting down; nothing was accepted"
        }
        AcceptError::Journal(AppendError::TooLarge) => {
            "the events together exceed the size of one request"
        }
        AcceptError::StorageLow => {
            "too little disk space is free; nothing was accepted"
        }
        AcceptError::Record(_) => INTERNAL,
    })
}

const fn not_acknowledged(status: SettleStatus) -> &'static str {
    match status {
        SettleStatus::Dead => "the event was received too often and is a dead letter; replay it",
        SettleStatus::Cancelled => "the delivery of the event to the inbox was cancelled",
        SettleStatus::NotReceived | SettleStatus::Returned => {
            "nobody has received the event; only what was received is acknowledged"
        }
        SettleStatus::Acked | SettleStatus::Unknown => NOT_FOUND,
    }
}

const fn delivery_detail(refusal: DeliveryRefusal) -> &'static str {
    match refusal {
        DeliveryRefusal::NotFound => NOT_FOUND,
        DeliveryRefusal::EndpointRemoved => "the endpoint was deleted",
        DeliveryRefusal::EndpointDisabled => {
            "enable the endpoint first; that also sends what was due meanwhile"
        }
        DeliveryRefusal::InProgress => {
            "wait for the attempt or the cancellation that is in progress"
        }
        DeliveryRefusal::EventRemoved => {
            "the event or its payload was removed, by its age or by an erasure"
        }
        DeliveryRefusal::Finished => "only a pending delivery can be cancelled",
    }
}
