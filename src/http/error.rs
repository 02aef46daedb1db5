//! Refusals and failures, told as RFC 9457 problem details. Their words are in `problem`.

use std::error::Error;
use std::time::Duration;

use crate::auth::{AuthError, IssueError};
use crate::domain::{KeyRotationRefusal, Scopes, SecretRotationRefusal, Violation};
use crate::ingest::AcceptError;
use crate::limit::RateLimitState;
use crate::store::{AddRefusal, DeliveryRefusal, PlanRefusal, StoreError};

/// Why a request is not answered as it wished.
#[derive(Debug)]
pub enum ApiError {
    /// The body is no JSON; the text names line and column.
    MalformedJson(String),
    /// The body ended early.
    IncompleteBody,
    /// Rules are broken: all of them are here.
    Invalid(Vec<Violation>),
    /// The body, or a single event's payload, has more than this many bytes.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// The bytes it may have.
        bytes_max: usize,
    },
    /// The body is not declared as what the route takes.
    UnsupportedMediaType {
        /// The media types that are taken.
        taken: &'static str,
    },
    /// No key was sent.
    KeyMissing,
    /// A key was sent that opens nothing. What is wrong with it is not told.
    KeyInvalid,
    /// Keys cannot be verified now.
    Auth(AuthError),
    /// The route is for operators.
    OperatorKeyRequired,
    /// The route is for tenants.
    TenantKeyRequired,
    /// The key lacks these scopes.
    ScopeRequired(Scopes),
    /// The organisation is suspended.
    OrgSuspended,
    /// The organisation has had as many events accepted in this month as it may.
    MonthUsedUp {
        /// Its quota.
        events_per_month: u32,
        /// When the next month begins.
        retry_after: Duration,
    },
    /// A batch holds more events than are left of the month's.
    BatchOverMonth {
        /// The organisation's quota.
        events_per_month: u32,
        /// What is left of it.
        left: u32,
        /// Events in the batch.
        events: u32,
        /// When the next month begins; `None` where the batch is more than a whole month's.
        retry_after: Option<Duration>,
    },
    /// The organisation has sent as many bytes as it may.
    ByteRateLimited {
        /// What is left: bytes.
        quota: RateLimitState,
        /// When the same request can pass.
        retry_after: Duration,
    },
    /// The organisation gets no more of these, and why.
    Add(&'static str, AddRefusal),
    /// There is no such thing, or none that the caller may know of.
    NotFound,
    /// There is no such route.
    RouteNotFound,
    /// The route exists, for other methods.
    MethodNotAllowed,
    /// The organisation has sent what it may.
    RateLimited {
        /// What is left.
        quota: RateLimitState,
        /// When the same request can pass.
        retry_after: Duration,
    },
    /// A batch holds more events than the organisation may ever send at once.
    BatchOverRateLimit {
        /// What may be sent.
        quota: RateLimitState,
        /// Events in the batch.
        events: u32,
    },
    /// Events were not taken in.
    Accept(AcceptError),
    /// A delivery cannot be retried, replayed or cancelled.
    Delivery(DeliveryRefusal),
    /// An event that the store refused is refused again; the text says why.
    StillRefused(String),
    /// No event was planned for an endpoint.
    Plan(PlanRefusal),
    /// An endpoint's secret was not rotated.
    Rotation(SecretRotationRefusal),
    /// Too many keys are being made.
    IssueBusy,
    /// A key was not rotated.
    KeyRotation(KeyRotationRefusal),
    /// The store did not do what it was asked.
    Store(StoreError),
    /// The answer was not ready in time.
    TimedOut,
    /// A fault of the program or the machine; the cause is logged and not told.
    Internal(Box<dyn Error + Send + Sync>),
}

impl ApiError {
    /// One broken rule.
    pub(super) fn invalid(violation: Violation) -> Self {
        Self::Invalid(vec![violation])
    }

    /// A fault of the program or the machine.
    pub(super) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
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
