//! API errors: why a request is not answered as asked. `error_detail` says how each is reported.

use std::error::Error;
use std::time::Duration;

use super::byte_budget::Exhausted;
use super::stream_limits::StreamsExhausted;
use crate::api::Refusal;
use crate::auth::{AuthError, IssueError};
use crate::domain::{
    EventId, KeyRotationRefusal, NewEventLimits, Scopes, SecretRotationRefusal, SettleStatus,
    Violation,
};
use crate::ingest::AcceptError;
use crate::limit::{Bucket, RateLimitState};
use crate::store::{DeliveryRefusal, StoreError};

/// Why a request failed or was refused.
#[derive(Debug)]
pub enum ApiError {
    /// The body is not valid JSON; the text names line and column.
    MalformedJson(String),
    /// The body ended early.
    IncompleteBody,
    /// Fields are invalid: all violations.
    Invalid(Vec<Violation>),
    /// The body has more than this many bytes.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The bytes it may have.
        bytes_max: usize,
    },
    /// An event's payload or the body around it is too large.
    EventTooLarge {
        /// The bytes that a payload may have.
        payload_bytes_max: usize,
        /// The bytes that the body may have.
        body_bytes_max: usize,
    },
    /// The body's `Content-Type` is not one that the route accepts.
    UnsupportedMediaType {
        /// The media types that are accepted.
        taken: &'static str,
    },
    /// The body's `Content-Encoding` is not one that the server decodes.
    UnsupportedEncoding,
    /// The body is not what its `Content-Encoding` says.
    MalformedEncoding,
    /// Too many bytes of request bodies are in flight.
    BodyBytes(Exhausted),
    /// Too many bytes of answers are in flight.
    AnswerBytes(Exhausted),
    /// A request with this idempotency key is running.
    IdempotencyInProgress,
    /// The idempotency key is another request's.
    IdempotencyKeyReused,
    /// The request has run, and its answer held a secret.
    AlreadyCreated {
        /// The id of what it has created or changed.
        id: Option<String>,
    },
    /// An event with this dedup id is stored, and has another content.
    DedupConflict(EventId),
    /// No key was sent.
    KeyMissing,
    /// The key is invalid, expired or unknown. The caller does not learn which.
    KeyInvalid,
    /// Keys cannot be verified now.
    Auth(AuthError),
    /// The route is for operators.
    OperatorKeyRequired,
    /// The route is for tenants.
    TenantKeyRequired,
    /// The key lacks these scopes.
    ScopeRequired(Scopes),
    /// The key was rotated: it manages no keys.
    KeyInGrace,
    /// The key expires before the one that it would make.
    KeyExpiresEarlier,
    /// The organisation is suspended.
    OrgSuspended,
    /// The monthly quota is used up.
    MonthUsedUp {
        /// Its quota.
        events_per_month: u32,
        /// When the next month begins.
        retry_after: Duration,
    },
    /// A batch has more events than are left of the monthly quota.
    BatchOverMonth {
        /// The organisation's quota.
        events_per_month: u32,
        /// What is left of it.
        left: u32,
        /// Events in the batch.
        events: u32,
        /// When the next month begins; `None` if the batch exceeds a whole month's quota.
        retry_after: Option<Duration>,
    },
    /// The organisation has as many of these as it may have.
    QuotaReached {
        /// Of what, such as `keys`.
        what: &'static str,
        /// The quota.
        most: u32,
    },
    /// The resource does not exist, or the caller may not know of it.
    NotFound,
    /// There is no such route; perhaps this path was meant.
    RouteNotFound(Option<String>),
    /// An HTTP/1.1 request has no `Host`, or several.
    InvalidHost,
    /// The request has both a length and a transfer coding.
    AmbiguousLength,
    /// The route exists, for other methods.
    MethodNotAllowed,
    /// A rate limit is exceeded.
    RateLimited {
        /// Which one.
        bucket: Bucket,
        /// What is left.
        quota: RateLimitState,
        /// When the same request can pass.
        retry_after: Duration,
    },
    /// As many reads of the caller as may be are in progress.
    TooManyReads {
        /// So many.
        reads_max: usize,
    },
    /// As many long polls, streams and exports as may be are open.
    Streams(StreamsExhausted),
    /// A batch has more than a limit ever allows at once.
    OverBurst {
        /// Which limit.
        bucket: Bucket,
        /// What may be sent.
        quota: RateLimitState,
        /// Events in the batch, or deliveries that they would become.
        cost: u32,
    },
    /// Events were not accepted.
    Accept(AcceptError),
    /// A delivery cannot be made, retried, replayed or cancelled.
    Delivery(DeliveryRefusal),
    /// The store rejects a quarantined event again; the text says why.
    StillRefused(String),
    /// An endpoint's secret was not rotated.
    Rotation(SecretRotationRefusal),
    /// Too many keys are being created.
    IssueBusy,
    /// A key was not rotated.
    KeyRotation(KeyRotationRefusal),
    /// The inbox is disabled, for this reason.
    InboxDisabled(String),
    /// The endpoint is for webhooks: nothing is fetched from it.
    NotAnInbox,
    /// The endpoint is an inbox: nothing is sent to it.
    NotAWebhook,
    /// The event was not acknowledged, since this is what became of it.
    NotAcknowledged(SettleStatus),
    /// The store failed.
    Store(StoreError),
    /// The answer was not ready in time.
    TimedOut,
    /// A fault of the program or the machine; the cause is logged, and not shown to the caller.
    Internal(Box<dyn Error + Send + Sync>),
}

impl ApiError {
    /// One violation.
    pub(super) fn invalid(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }

    /// A fault of the program or the machine.
    pub(super) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }

    /// Names the limit of a payload beside that of the body, if that is too large.
    pub(super) fn naming_payload_limit(self, limits: &NewEventLimits) -> Self {
        match self {
            Self::TooLarge { bytes_max, .. } => Self::EventTooLarge {
                payload_bytes_max: limits.payload_bytes_max,
                body_bytes_max: bytes_max,
            },
            other => other,
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotFound(_) => Self::NotFound,
            Refusal::Invalid(violation) => Self::invalid(violation),
            Refusal::QuotaReached { what, most } => Self::QuotaReached { what, most },
            Refusal::Delivery(refusal) => Self::Delivery(refusal),
            Refusal::StillRefused(why) => Self::StillRefused(why),
            Refusal::SecretRotation(refusal) => Self::Rotation(refusal),
            Refusal::KeyRotation(refusal) => Self::KeyRotation(refusal),
            Refusal::KeyInGrace => Self::KeyInGrace,
            Refusal::KeyExpiresEarlier => Self::KeyExpiresEarlier,
            Refusal::Issue(error) => error.into(),
            Refusal::Random(error) => Self::internal(error.to_string()),
            Refusal::InboxDisabled(reason) => Self::InboxDisabled(reason),
            Refusal::NotAnInbox => Self::NotAnInbox,
            Refusal::NotAWebhook => Self::NotAWebhook,
            Refusal::Store(error) => Self::Store(error),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<AcceptError> for ApiError {
    fn from(error: AcceptError) -> Self {
        Self::Accept(error)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Malformed
            | AuthError::Unknown
            | AuthError::WrongSecret
            | AuthError::Expired => Self::KeyInvalid,
            AuthError::Unavailable(_) | AuthError::Busy | AuthError::Throttled { .. } => {
                Self::Auth(error)
            }
        }
    }
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Busy => Self::IssueBusy,
            IssueError::Random(_) | IssueError::Hash(_) => Self::internal(error),
        }
    }
}
