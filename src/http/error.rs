//! Refusals and failures, told as RFC 9457 problem details. Their words are in `problem`.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem::{Blame, Problem};
use super::quota;
use crate::auth::{AuthError, IssueError};
use crate::domain::{KeyRotationRefusal, Scopes, SecretRotationRefusal, TraceId, Violation};
use crate::ingest::AcceptError;
use crate::limit::RateLimitState;
use crate::store::{AddRefusal, DeliveryRefusal, PlanRefusal, StoreError};

/// A code is appended. A name rather than a place: RFC 9457 takes any URI, and a name needs no web
/// site that outlives every server.
const TYPE_PREFIX: &str = "urn:hookgate:problem:";

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

/// The body of an answer, RFC 9457 section 3.
#[derive(Serialize)]
struct ProblemBody<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    trace_id: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
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

    /// Writes the answer, and the log line if there is a cause that operators should know.
    pub(super) fn answer(&self, trace_id: TraceId) -> Response {
        let problem = Problem::of(self);
        match problem.blame {
            Blame::Caller => tracing::debug!(%trace_id, refusal = ?self, "a request is refused"),
            Blame::Surroundings => tracing::warn!(%trace_id, cause = ?self, "a request failed"),
            Blame::Ourselves => tracing::error!(%trace_id, cause = ?self, "a request failed"),
        }
        let mut response = Response::new(Body::from(self.body(&problem, trace_id)));
        *response.status_mut() = problem.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(wait) = problem.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(quota::whole_seconds(wait)));
        }
        if let Some((counted, quota)) = problem.quota {
            quota::write_headers(headers, counted, quota);
        }
        if problem.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("ApiKey realm=\"hookgate\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    fn body(&self, problem: &Problem, trace_id: TraceId) -> Vec<u8> {
        let errors: &[Violation] = if let Self::Invalid(all) = self { all } else { &[] };
        let body = ProblemBody {
            r#type: format!("{TYPE_PREFIX}{}", problem.code),
            title: problem.title,
            status: problem.status.as_u16(),
            detail: &problem.detail,
            code: problem.code,
            trace_id: trace_id.to_string(),
            errors,
        };
        // Strings and numbers always serialise; an empty body would still carry the status.
        serde_json::to_vec(&body).unwrap_or_default()
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

/// Leaves the error for the envelope, which writes the answer: only it knows the trace id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = Problem::of(&self).status;
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}
