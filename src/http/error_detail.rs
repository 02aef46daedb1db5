//! What each error tells its caller and the operator: problem, detail, waiting time, fault.

use std::fmt;
use std::time::Duration;

use super::byte_budget::Exhausted;
use super::error::ApiError;
use super::problem::{self, Problem};
use super::rate_limit_detail;
use super::ratelimit_headers::Counted;
use crate::auth::AuthError;
use crate::domain::{KeyRotationRefusal, SecretRotationRefusal, Violation};
use crate::ingest::AcceptError;
use crate::journal::AppendError;
use crate::limit::RateLimitState;
use crate::store::{DeliveryRefusal, StoreError};

/// The wait when a shortage passes by itself.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// The wait when something else must recover or catch up.
const RETRY_LATER: Duration = Duration::from_secs(5);
/// The wait when an operator must restart the server.
const RETRY_AFTER_RESTART: Duration = Duration::from_secs(30);

/// Who is at fault, and so how loudly an error is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// The caller. Also a journal that refuses events: it has logged that itself, and one log line per
    /// refused request would say no more than the counter does.
    Client,
    /// The store, or a lack of time: it passes.
    Dependency,
    /// The program or the machine: an operator should look.
    Internal,
}

impl ApiError {
    /// The kind of problem: status, code and title.
    pub(super) fn problem(&self) -> &'static Problem {
        match self {
            Self::MalformedJson(_) => &problem::MALFORMED_JSON,
            Self::IncompleteBody => &problem::INCOMPLETE_BODY,
            Self::Invalid(_) => &problem::VALIDATION_FAILED,
            Self::TooLarge { .. } | Self::EventTooLarge { .. } => &problem::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType { .. } => &problem::UNSUPPORTED_MEDIA_TYPE,
            Self::UnsupportedEncoding => &problem::UNSUPPORTED_CONTENT_ENCODING,
            Self::MalformedEncoding => &problem::MALFORMED_CONTENT_ENCODING,
            Self::BodyBytes(Exhausted::Share) => &problem::TOO_MANY_BODY_BYTES,
            Self::BodyBytes(Exhausted::Total) => &problem::BODY_BYTES_EXHAUSTED,
            Self::AnswerBytes(Exhausted::Share) => &problem::TOO_MANY_ANSWER_BYTES,
            Self::AnswerBytes(Exhausted::Total) => &problem::ANSWER_BYTES_EXHAUSTED,
            Self::IdempotencyInProgress => &problem::IDEMPOTENCY_IN_PROGRESS,
            Self::IdempotencyKeyReused => &problem::IDEMPOTENCY_KEY_REUSED,
            Self::AlreadyCreated { .. } => &problem::ALREADY_CREATED,
            Self::DedupConflict(_) => &problem::DEDUP_CONFLICT,
            Self::KeyMissing | Self::KeyInvalid => &problem::UNAUTHORIZED,
            Self::Auth(error) => of_auth(error),
            Self::OperatorKeyRequired => &problem::OPERATOR_KEY_REQUIRED,
            Self::TenantKeyRequired => &problem::TENANT_KEY_REQUIRED,
            Self::ScopeRequired(_) => &problem::SCOPE_REQUIRED,
            Self::KeyInGrace => &problem::KEY_IN_GRACE,
            Self::KeyExpiresEarlier => &problem::KEY_EXPIRES_EARLIER,
            Self::OrgSuspended => &problem::ORG_SUSPENDED,
            Self::MonthUsedUp { .. } => &problem::MONTH_USED_UP,
            Self::BatchOverMonth { .. } => &problem::BATCH_OVER_MONTH,
            Self::RateLimited { bucket, .. } => rate_limit_detail::problem(bucket),
            Self::OverBurst { bucket, .. } => rate_limit_detail::over_burst_problem(bucket),
            Self::TooManyReads { .. } => &problem::TOO_MANY_READS,
            Self::NotFound | Self::RouteNotFound(_) => &problem::NOT_FOUND,
            Self::InvalidHost => &problem::INVALID_HOST,
            Self::AmbiguousLength => &problem::AMBIGUOUS_LENGTH,
            Self::MethodNotAllowed => &problem::METHOD_NOT_ALLOWED,
            Self::StillRefused(_) => &problem::EVENT_UNSTORABLE,
            Self::IssueBusy => &problem::AUTH_UNAVAILABLE,
            Self::TimedOut => &problem::REQUEST_TIMEOUT,
            Self::Accept(error) => of_accept(error),
            Self::Delivery(refusal) => of_delivery(*refusal),
            Self::QuotaReached { .. } => &problem::QUOTA_REACHED,
            Self::Rotation(refusal) => of_rotation(*refusal),
            Self::KeyRotation(refusal) => of_key_rotation(*refusal),
            Self::Store(StoreError::Unavailable(_)) => &problem::STORE_UNAVAILABLE,
            Self::Store(StoreError::ReadTimedOut) => &problem::READ_TIMEOUT,
            Self::Store(StoreError::Refused(_) | StoreError::Corrupt(_)) | Self::Internal(_) => {
                &problem::INTERNAL
            }
        }
    }

    /// Who is at fault.
    pub(super) fn fault(&self) -> Fault {
        match self {
            Self::Auth(AuthError::Unavailable(_) | AuthError::Busy)
            | Self::IssueBusy
            | Self::TimedOut
            | Self::Store(StoreError::Unavailable(_)) => Fault::Dependency,
            Self::Rotation(SecretRotationRefusal::Undecryptable)
            | Self::Accept(AcceptError::Record(_))
            | Self::Store(StoreError::Refused(_) | StoreError::Corrupt(_))
            | Self::Internal(_) => Fault::Internal,
            _ => Fault::Client,
        }
    }

    /// When the same request may succeed.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. }
            | Self::MonthUsedUp { retry_after, .. }
            | Self::Auth(AuthError::Throttled { retry_after }) => Some(*retry_after),
            Self::BatchOverMonth { retry_after, .. } => *retry_after,
            Self::Auth(AuthError::Busy)
            | Self::IssueBusy
            | Self::TimedOut
            | Self::BodyBytes(_)
            | Self::AnswerBytes(_)
            | Self::TooManyReads { .. }
            | Self::IdempotencyInProgress
            | Self::Accept(AcceptError::Journal(AppendError::Busy)) => Some(RETRY_SOON),
            Self::Auth(AuthError::Unavailable(_))
            | Self::Store(StoreError::Unavailable(_))
            | Self::Accept(AcceptError::Journal(
                AppendError::Full
                | AppendError::NoSegment
                | AppendError::ShareUsedUp
                | AppendError::Closed,
            )) => Some(RETRY_LATER),
            Self::Accept(AcceptError::Journal(AppendError::Poisoned)) => Some(RETRY_AFTER_RESTART),
            _ => None,
        }
    }

    /// What the caller may send, where a rate limit refused the request.
    pub(super) fn rate_limit(&self) -> Option<(Counted, RateLimitState)> {
        match self {
            Self::RateLimited { bucket, quota, .. } | Self::OverBurst { bucket, quota, .. } => {
                Some((Counted::from(bucket), *quota))
            }
            _ => None,
        }
    }
}

fn of_auth(error: &AuthError) -> &'static Problem {
    match error {
        AuthError::Malformed | AuthError::Unknown | AuthError::WrongSecret | AuthError::Expired => {
            &problem::UNAUTHORIZED
        }
        AuthError::Unavailable(_) | AuthError::Busy => &problem::AUTH_UNAVAILABLE,
        AuthError::Throttled { .. } => &problem::TOO_MANY_FAILED_KEYS,
    }
}

fn of_accept(error: &AcceptError) -> &'static Problem {
    match error {
        AcceptError::Journal(AppendError::Full) => &problem::JOURNAL_FULL,
        AcceptError::Journal(AppendError::ShareUsedUp) => &problem::JOURNAL_SHARE_USED_UP,
        AcceptError::Journal(AppendError::Busy) => &problem::JOURNAL_BUSY,
        AcceptError::Journal(AppendError::NoSegment | AppendError::Poisoned) => {
            &problem::JOURNAL_UNAVAILABLE
        }
        AcceptError::Journal(AppendError::Closed) => &problem::SHUTTING_DOWN,
        AcceptError::Journal(AppendError::TooLarge) => &problem::PAYLOAD_TOO_LARGE,
        AcceptError::Record(_) => &problem::INTERNAL,
    }
}

fn of_delivery(refusal: DeliveryRefusal) -> &'static Problem {
    match refusal {
        DeliveryRefusal::NotFound => &problem::NOT_FOUND,
        DeliveryRefusal::EndpointRemoved => &problem::ENDPOINT_REMOVED,
        DeliveryRefusal::EndpointDisabled => &problem::ENDPOINT_DISABLED,
        DeliveryRefusal::InProgress => &problem::IN_PROGRESS,
        DeliveryRefusal::Finished => &problem::DELIVERY_FINISHED,
    }
}

fn of_rotation(refusal: SecretRotationRefusal) -> &'static Problem {
    match refusal {
        SecretRotationRefusal::NotFound => &problem::NOT_FOUND,
        SecretRotationRefusal::TooManySecrets => &problem::TOO_MANY_SECRETS,
        SecretRotationRefusal::Undecryptable => &problem::SECRETS_UNREADABLE,
    }
}

fn of_key_rotation(refusal: KeyRotationRefusal) -> &'static Problem {
    match refusal {
        KeyRotationRefusal::NotFound => &problem::NOT_FOUND,
        KeyRotationRefusal::AlreadyRotated(_) => &problem::KEY_ROTATED,
        KeyRotationRefusal::OverQuota(_) => &problem::QUOTA_REACHED,
        KeyRotationRefusal::Inactive => &problem::KEY_EXPIRED,
    }
}

/// The detail of this occurrence, in one sentence for people. It never shows an internal cause.
impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MalformedJson(error) => f.write_str(error),
            Self::IncompleteBody => f.write_str("the body ended before it was complete"),
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
            Self::UnsupportedEncoding => f.write_str(
                "send the body uncompressed or with Content-Encoding: gzip, deflate or zstd",
            ),
            Self::MalformedEncoding => f.write_str(
                "the body is not what Content-Encoding says, or its zstd window exceeds 8 MiB",
            ),
            Self::BodyBytes(exhausted) => write_exhausted(f, "request bodies", *exhausted),
            Self::AnswerBytes(exhausted) => write_exhausted(f, "answers", *exhausted),
            Self::IdempotencyInProgress => {
                f.write_str("a request with this Idempotency-Key is running; wait for its answer")
            }
            Self::IdempotencyKeyReused => {
                f.write_str("this Idempotency-Key was used for another path or body")
            }
            Self::AlreadyCreated { id: Some(id) } => {
                write!(f, "the first request with this Idempotency-Key has been answered, for {id}")
            }
            Self::AlreadyCreated { id: None } => {
                f.write_str("the first request with this Idempotency-Key has been answered")
            }
            Self::DedupConflict(id) => {
                write!(f, "the event {id} has this dedup id and another content")
            }
            Self::KeyMissing => {
                f.write_str("send your API key as X-API-Key, or as Authorization: Bearer")
            }
            Self::KeyInvalid => f.write_str("the API key is invalid or expired"),
            Self::Auth(error) => write_auth(f, error),
            Self::OperatorKeyRequired => {
                f.write_str("this route is for operators; the key belongs to an organisation")
            }
            Self::TenantKeyRequired => {
                f.write_str("this route is for organisations; the key belongs to an operator")
            }
            Self::ScopeRequired(scopes) => write!(f, "the key needs the scope {scopes}"),
            Self::KeyInGrace => f.write_str(
                "the key was rotated and is in its grace period; use its successor to manage keys",
            ),
            Self::KeyExpiresEarlier => {
                f.write_str("your key expires before the new one would; use one that does not")
            }
            Self::OrgSuspended => {
                f.write_str("the operator has suspended the organisation; its data is kept")
            }
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
            Self::RouteNotFound(None) => f.write_str("there is no such route"),
            Self::RouteNotFound(Some(path)) => {
                write!(f, "there is no such route; did you mean {path}?")
            }
            Self::InvalidHost => f.write_str("send the header Host once"),
            Self::AmbiguousLength => {
                f.write_str("send Content-Length or Transfer-Encoding, not both")
            }
            Self::MethodNotAllowed => f.write_str("use a method that the header Allow lists"),
            Self::StillRefused(why) => f.write_str(why),
            Self::IssueBusy => {
                f.write_str("too many keys are being created; nothing was done, try again")
            }
            Self::TimedOut => f.write_str(
                "the answer was not ready in time; the request may still have taken effect",
            ),
            Self::Accept(error) => write_accept(f, error),
            Self::Delivery(refusal) => f.write_str(delivery_detail(*refusal)),
            Self::QuotaReached { what, most } => {
                write!(f, "the organisation may have at most {most} {what} ({what}_max)")
            }
            Self::NotFound
            | Self::Rotation(SecretRotationRefusal::NotFound)
            | Self::KeyRotation(KeyRotationRefusal::NotFound) => f.write_str(NOT_FOUND),
            Self::Rotation(refusal) => write!(f, "{refusal}"),
            Self::KeyRotation(refusal) => write!(f, "{refusal}"),
            Self::Store(StoreError::Unavailable(_)) => {
                f.write_str("the store does not answer; try again")
            }
            Self::Store(StoreError::ReadTimedOut) => f.write_str(
                "the read took too long and was ended; name a shorter time with since and until, \
                 or fewer filters at once",
            ),
            Self::Store(StoreError::Refused(_) | StoreError::Corrupt(_)) | Self::Internal(_) => {
                f.write_str(INTERNAL)
            }
        }
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
        AcceptError::Record(_) => INTERNAL,
    })
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
        DeliveryRefusal::Finished => "only a pending delivery can be cancelled",
    }
}

#[cfg(test)]
mod tests;
