//! What each error is called: its status, its stable `code`, and its words.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::StatusCode;

use super::error::ApiError;
use super::ratelimit_headers::{self, Counted};
use crate::auth::AuthError;
use crate::domain::{KeyRotationRefusal, SecretRotationRefusal};
use crate::ingest::AcceptError;
use crate::journal::AppendError;
use crate::limit::RateLimitState;
use crate::store::{AddRefusal, DeliveryRefusal, PlanRefusal, StoreError};

/// For what passes by itself in a moment.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// For what passes when something else recovers or catches up.
const RETRY_LATER: Duration = Duration::from_secs(5);
/// For what needs a restart.
const RETRY_AFTER_RESTART: Duration = Duration::from_secs(30);

/// How an error is told.
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// For programs; it never changes.
    pub(super) code: &'static str,
    pub(super) title: &'static str,
    pub(super) detail: Cow<'static, str>,
    /// When the same request may succeed.
    pub(super) retry_after: Option<Duration>,
    /// What the caller may send.
    pub(super) quota: Option<(Counted, RateLimitState)>,
    pub(super) fault: Fault,
}

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

impl Problem {
    /// The one place where errors get their status, code and words.
    #[expect(clippy::too_many_lines, reason = "a table with a row for each error")]
    pub(super) fn of(error: &ApiError) -> Self {
        use StatusCode as S;
        match error {
            ApiError::MalformedJson(place) => {
                Self::new(S::BAD_REQUEST, "malformed_json", "The body is not JSON", place.clone())
            }
            ApiError::IncompleteBody => Self::new(
                S::BAD_REQUEST,
                "incomplete_body",
                "The body is incomplete",
                "the body ended before it was complete",
            ),
            ApiError::Invalid(violations) => {
                let broken = match violations.len() {
                    1 => "1 rule is broken, see errors".to_owned(),
                    many => format!("{many} rules are broken, see errors"),
                };
                Self::new(
                    S::UNPROCESSABLE_ENTITY,
                    "validation_failed",
                    "The request breaks rules",
                    broken,
                )
            }
            ApiError::TooLarge { what, bytes_max } => Self::new(
                S::PAYLOAD_TOO_LARGE,
                "payload_too_large",
                "The request is too large",
                format!("{what} may have at most {bytes_max} bytes"),
            ),
            ApiError::UnsupportedMediaType { taken } => Self::new(
                S::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "The body must be JSON",
                format!("send the header Content-Type: {taken}"),
            ),
            ApiError::KeyMissing => Self::new(
                S::UNAUTHORIZED,
                "unauthorized",
                "An API key is required",
                "send your API key in the header X-API-Key",
            ),
            ApiError::KeyInvalid => Self::new(
                S::UNAUTHORIZED,
                "unauthorized",
                "The API key is not valid",
                "the key in the header X-API-Key is not valid, or no longer",
            ),
            ApiError::Auth(error) => auth(error),
            ApiError::OperatorKeyRequired => Self::new(
                S::FORBIDDEN,
                "operator_key_required",
                "An operator's key is required",
                "this route is for operators; the key belongs to an organisation",
            ),
            ApiError::TenantKeyRequired => Self::new(
                S::FORBIDDEN,
                "tenant_key_required",
                "An organisation's key is required",
                "this route is for organisations; the key belongs to an operator",
            ),
            ApiError::ScopeRequired(scopes) => Self::new(
                S::FORBIDDEN,
                "scope_required",
                "The key lacks a scope",
                format!("this needs a key with the scope {scopes}"),
            ),
            ApiError::OrgSuspended => Self::new(
                S::FORBIDDEN,
                "organisation_suspended",
                "The organisation is suspended",
                "the operator has suspended the organisation; nothing of it is lost",
            ),
            ApiError::MonthUsedUp { events_per_month, retry_after } => Self::new(
                S::TOO_MANY_REQUESTS,
                "month_used_up",
                "The month's events are used up",
                format!("the quota of {events_per_month} events a month (UTC) is used up"),
            )
            .retry(*retry_after),
            ApiError::BatchOverMonth { events_per_month, left, events, retry_after } => Self {
                retry_after: *retry_after,
                ..Self::new(
                    S::TOO_MANY_REQUESTS,
                    "batch_over_month",
                    "The batch is above the month's quota",
                    over_month(*events_per_month, *left, *events),
                )
            },
            ApiError::ByteRateLimited { quota, retry_after } => Self::new(
                S::TOO_MANY_REQUESTS,
                "byte_rate_limited",
                "Too many bytes",
                format!("the limit of {} bytes a minute is reached", quota.limit),
            )
            .retry(*retry_after)
            .quota(Counted::Bytes, *quota),
            ApiError::Add(what, AddRefusal::OverQuota(most)) => Self::new(
                S::CONFLICT,
                "quota_reached",
                "The quota is reached",
                format!("the organisation may have {most} {what}, and has them"),
            ),
            ApiError::NotFound => Self::new(
                S::NOT_FOUND,
                "not_found",
                "Not found",
                "there is nothing with this id, or it is not yours",
            ),
            ApiError::RouteNotFound => {
                Self::new(S::NOT_FOUND, "not_found", "Not found", "there is no such route")
            }
            ApiError::MethodNotAllowed => Self::new(
                S::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "The method is not allowed",
                "the route takes the methods listed in the header Allow",
            ),
            ApiError::RateLimited { quota, retry_after } => {
                let wait = ratelimit_headers::whole_seconds(*retry_after);
                let detail = format!(
                    "the limit of {} events a minute is reached; try again in {wait} s",
                    quota.limit
                );
                Self::new(S::TOO_MANY_REQUESTS, "rate_limited", "Too many events", detail)
                    .retry(*retry_after)
                    .quota(Counted::Events, *quota)
            }
            ApiError::BatchOverRateLimit { quota, events } => Self::new(
                S::TOO_MANY_REQUESTS,
                "batch_over_rate_limit",
                "The batch is above the rate limit",
                format!(
                    "{events} events are more than the {} that may ever be sent at once; send \
                     smaller batches",
                    quota.burst
                ),
            )
            .quota(Counted::Events, *quota),
            ApiError::Accept(error) => accept(error),
            ApiError::Delivery(refusal) => delivery(*refusal),
            ApiError::StillRefused(why) => Self::new(
                S::CONFLICT,
                "event_unstorable",
                "The event is refused still",
                why.clone(),
            ),
            ApiError::Add(_, AddRefusal::OrgDeleted)
            | ApiError::Plan(PlanRefusal::NotFound)
            | ApiError::Rotation(SecretRotationRefusal::NotFound)
            | ApiError::KeyRotation(KeyRotationRefusal::NotFound) => Self::of(&ApiError::NotFound),
            ApiError::Plan(PlanRefusal::EndpointDisabled) => {
                delivery(DeliveryRefusal::EndpointDisabled)
            }
            ApiError::Rotation(SecretRotationRefusal::TooManySecrets) => Self::new(
                S::CONFLICT,
                "too_many_secrets",
                "Too many secrets are in use",
                "three earlier secrets still sign; wait until one has ended, or send \
                 overlap_seconds 0, which ends them all at once",
            ),
            ApiError::Rotation(SecretRotationRefusal::Unreadable) => Self::new(
                S::SERVICE_UNAVAILABLE,
                "secrets_unreadable",
                "The secrets cannot be read",
                "this server's SECRETS_KEY lacks the key they are encrypted by; tell the operator",
            )
            .fault(Fault::Internal),
            ApiError::IssueBusy => Self::new(
                S::SERVICE_UNAVAILABLE,
                "auth_unavailable",
                "No key can be made now",
                "too many keys are being made; nothing was done, try again",
            )
            .retry(RETRY_SOON)
            .fault(Fault::Dependency),
            ApiError::KeyRotation(KeyRotationRefusal::AlreadyRotated(new)) => Self::new(
                S::CONFLICT,
                "key_rotated",
                "The key was rotated already",
                format!("the key is in the grace of its rotation; rotate its successor {new}"),
            ),
            ApiError::KeyRotation(KeyRotationRefusal::OverQuota(most)) => Self::new(
                S::CONFLICT,
                "quota_reached",
                "The quota is reached",
                format!(
                    "the organisation may have {most} keys in their grace at once, and has them; \
                     revoke one, or rotate without grace_seconds"
                ),
            ),
            ApiError::KeyRotation(KeyRotationRefusal::Inactive) => Self::new(
                S::CONFLICT,
                "key_expired",
                "The key has expired",
                "a key that was revoked or has expired cannot be rotated; create a new one",
            ),
            ApiError::Store(StoreError::Unavailable(_)) => Self::new(
                S::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "The store is unavailable",
                "the store cannot be asked now; try again",
            )
            .retry(RETRY_LATER)
            .fault(Fault::Dependency),
            ApiError::TimedOut => Self::new(
                S::SERVICE_UNAVAILABLE,
                "request_timeout",
                "The request took too long",
                "the answer was not ready in time; whether anything was done is not known",
            )
            .retry(RETRY_SOON)
            .fault(Fault::Dependency),
            ApiError::Store(StoreError::Refused(_) | StoreError::Corrupt(_))
            | ApiError::Internal(_) => internal(),
        }
    }

    fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let detail = detail.into();
        let fault = Fault::Client;
        Self { status, code, title, detail, retry_after: None, quota: None, fault }
    }

    fn retry(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    fn quota(self, counted: Counted, quota: RateLimitState) -> Self {
        Self { quota: Some((counted, quota)), ..self }
    }

    fn fault(self, fault: Fault) -> Self {
        Self { fault, ..self }
    }
}

fn over_month(events_per_month: u32, left: u32, events: u32) -> String {
    let quota = format!("the quota of {events_per_month} a month (UTC)");
    if events > events_per_month {
        format!(
            "{events} events are more than {quota}, of which {left} are left; send smaller batches"
        )
    } else {
        format!("{events} events are more than the {left} left of {quota}; send smaller batches")
    }
}

fn internal() -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Something went wrong here",
        "the operator finds the cause in the log under the trace id",
    )
    .fault(Fault::Internal)
}

fn auth(error: &AuthError) -> Problem {
    let busy = |detail| {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Problem::new(status, "auth_unavailable", "The key cannot be verified now", detail)
            .fault(Fault::Dependency)
    };
    match error {
        AuthError::Malformed | AuthError::Unknown | AuthError::WrongSecret | AuthError::Expired => {
            Problem::of(&ApiError::KeyInvalid)
        }
        AuthError::Unavailable(_) => {
            busy("keys cannot be verified now; try again").retry(RETRY_LATER)
        }
        AuthError::Busy => busy("too many keys are being verified; try again").retry(RETRY_SOON),
        AuthError::Throttled { retry_after } => Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_failed_keys",
            "Too many keys were not valid",
            "too many keys from your address were not valid; only those that have been used here \
             before are taken now",
        )
        .retry(*retry_after),
    }
}

fn accept(error: &AcceptError) -> Problem {
    let unavailable = |code, title, detail, wait| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, title, detail).retry(wait)
    };
    match error {
        AcceptError::Journal(AppendError::Full) => unavailable(
            "journal_full",
            "The journal is full",
            "the store is behind and the journal has no room; nothing was accepted",
            RETRY_LATER,
        ),
        AcceptError::Journal(AppendError::Busy) => unavailable(
            "journal_busy",
            "The journal is busy",
            "too many requests wait for the journal; nothing was accepted",
            RETRY_SOON,
        ),
        AcceptError::Journal(AppendError::Poisoned) => unavailable(
            "journal_unavailable",
            "The journal is unavailable",
            "the journal could not be written and takes nothing until the server is restarted",
            RETRY_AFTER_RESTART,
        ),
        AcceptError::Journal(AppendError::Closed) => unavailable(
            "shutting_down",
            "The server is shutting down",
            "the server is shutting down; nothing was accepted",
            RETRY_LATER,
        ),
        AcceptError::Journal(AppendError::TooLarge) => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            "The request is too large",
            "the events together are more than one request may hold",
        ),
        AcceptError::Record(_) => internal(),
    }
}

fn delivery(refusal: DeliveryRefusal) -> Problem {
    let conflict = |code, title, detail| Problem::new(StatusCode::CONFLICT, code, title, detail);
    match refusal {
        DeliveryRefusal::NotFound => Problem::of(&ApiError::NotFound),
        DeliveryRefusal::EndpointRemoved => conflict(
            "endpoint_removed",
            "The endpoint was removed",
            "there is no such endpoint any more",
        ),
        DeliveryRefusal::EndpointDisabled => conflict(
            "endpoint_disabled",
            "The endpoint is disabled",
            "enable the endpoint first; that makes its pending deliveries due, too",
        ),
        DeliveryRefusal::InProgress => conflict(
            "in_progress",
            "An attempt is in flight",
            "wait for the attempt that is in flight",
        ),
        DeliveryRefusal::Finished => conflict(
            "delivery_finished",
            "The delivery is finished",
            "only a pending delivery can be cancelled",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_secret_is_told_like_an_unknown_key() {
        let told = |error: AuthError| {
            let problem = Problem::of(&error.into());
            (problem.status, problem.code, problem.detail)
        };
        let unknown = told(AuthError::Unknown);
        for other in [AuthError::Malformed, AuthError::WrongSecret, AuthError::Expired] {
            assert_eq!(told(other), unknown);
        }
    }

    #[test]
    fn journals_refusals_say_when_to_come_back() {
        for error in
            [AppendError::Full, AppendError::Busy, AppendError::Poisoned, AppendError::Closed]
        {
            let problem = Problem::of(&AcceptError::Journal(error).into());
            assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(problem.retry_after.is_some(), "{}", problem.code);
        }
    }

    #[test]
    fn causes_on_our_side_are_not_told() {
        let problem = Problem::of(&ApiError::internal("the disk is on fire"));
        assert_eq!((problem.code, problem.fault), ("internal", Fault::Internal));
        assert!(!problem.detail.contains("fire"));
        let corrupt = StoreError::Corrupt("row 7".to_owned());
        let problem = Problem::of(&ApiError::Store(corrupt));
        assert_eq!((problem.code, problem.fault), ("internal", Fault::Internal));
    }
}
