//! What each error tells its caller and the operator: problem, waiting time, fault. `error_text` has the words.

use std::time::Duration;

use super::byte_budget::Exhausted;
use super::error::ApiError;
use super::problem::{self, Problem};
use super::rate_limit_detail;
use super::ratelimit_headers::Counted;
use super::stream_limits::StreamsExhausted;
use crate::auth::AuthError;
use crate::domain::{KeyRotationRefusal, SecretRotationRefusal};
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
            Self::Streams(StreamsExhausted::Share(_)) => &problem::TOO_MANY_STREAMS,
            Self::Streams(StreamsExhausted::Total) => &problem::STREAMS_EXHAUSTED,
            Self::NotFound | Self::RouteNotFound(_) => &problem::NOT_FOUND,
            Self::InvalidHost => &problem::INVALID_HOST,
            Self::AmbiguousLength => &problem::AMBIGUOUS_LENGTH,
            Self::MethodNotAllowed => &problem::METHOD_NOT_ALLOWED,
            Self::StillRefused(_) => &problem::EVENT_UNSTORABLE,
            Self::IssueBusy => &problem::AUTH_UNAVAILABLE,
            Self::TimedOut => &problem::REQUEST_TIMEOUT,
            Self::Accept(error) => of_accept(error),
            Self::Delivery(refusal) => of_delivery(*refusal),
            Self::InboxDisabled(_) => &problem::ENDPOINT_DISABLED,
            Self::NotAnInbox => &problem::PULL_ENDPOINT_REQUIRED,
            Self::NotAWebhook => &problem::WEBHOOK_ENDPOINT_REQUIRED,
            Self::NotAcknowledged(_) => &problem::NOT_ACKNOWLEDGED,
            Self::QuotaReached { .. } => &problem::QUOTA_REACHED,
            Self::Rotation(refusal) => of_rotation(*refusal),
            Self::KeyRotation(refusal) => of_key_rotation(*refusal),
            Self::Store(StoreError::Unavailable(_)) => &problem::STORE_UNAVAILABLE,
            Self::Store(StoreError::ReadTimedOut) => &problem::READ_TIMEOUT,
            Self::Store(StoreError::Changed) => &problem::PRECONDITION_FAILED,
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
            | Self::Streams(_)
            | Self::IdempotencyInProgress
            | Self::Accept(AcceptError::Journal(AppendError::Busy)) => Some(RETRY_SOON),
            Self::Auth(AuthError::Unavailable(_))
            | Self::Store(StoreError::Unavailable(_))
            | Self::Accept(
                AcceptError::StorageLow
                | AcceptError::Journal(
                    AppendError::Full
                    | AppendError::NoSegment
                    | AppendError::ShareUsedUp
                    | AppendError::Closed,
                ),
            ) => Some(RETRY_LATER),
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
        AcceptError::StorageLow => &problem::STORAGE_LOW,
        AcceptError::Record(_) => &problem::INTERNAL,
    }
}

fn of_delivery(refusal: DeliveryRefusal) -> &'static Problem {
    match refusal {
        DeliveryRefusal::NotFound => &problem::NOT_FOUND,
        DeliveryRefusal::EndpointRemoved => &problem::ENDPOINT_REMOVED,
        DeliveryRefusal::EndpointDisabled => &problem::ENDPOINT_DISABLED,
        DeliveryRefusal::InProgress => &problem::IN_PROGRESS,
        DeliveryRefusal::EventRemoved => &problem::EVENT_REMOVED,
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

#[cfg(test)]
mod tests;
