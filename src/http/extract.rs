//! What handlers take from a request's head: who is asking, and for which thing.

use std::net::IpAddr;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::client;
use super::error::ApiError;
use super::state::AppState;
use super::trace::Arrival;
use crate::auth::{AuthError, LastKey, Principal};
use crate::domain::{OrgId, Role};
use crate::runtime::Stopwatch;
use crate::telemetry::RejectedRequest;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The organisation whose key was presented. An operator's key is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenant {
    pub(super) org_id: OrgId,
    /// The organisation's own limit; `None` follows the default.
    pub(super) rate_limit_per_minute: Option<u32>,
}

/// Proof that an operator's key was presented. A tenant's key is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operator;

/// The id in the path. One that is malformed names nothing, so it is not found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<T>(pub(super) T);

impl FromRequestParts<AppState> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let peer = Arrival::from_request_parts(parts, app).await?.peer;
        principal(&parts.headers, app, peer, None).await?.try_into()
    }
}

impl Tenant {
    /// The organisation whose key is in the headers, most likely the key that came last on its line.
    pub(super) async fn again(
        headers: &HeaderMap,
        app: &AppState,
        peer: IpAddr,
        last: &LastKey,
    ) -> Result<Self, ApiError> {
        principal(headers, app, peer, Some(last)).await?.try_into()
    }
}

impl TryFrom<Principal> for Tenant {
    type Error = ApiError;

    fn try_from(principal: Principal) -> Result<Self, ApiError> {
        let rate_limit_per_minute = principal.rate_limit_per_minute;
        match principal.role {
            Role::Tenant(org_id) => Ok(Self { org_id, rate_limit_per_minute }),
            Role::Operator => Err(ApiError::TenantKeyRequired),
        }
    }
}

impl FromRequestParts<AppState> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let peer = Arrival::from_request_parts(parts, app).await?.peer;
        match principal(&parts.headers, app, peer, None).await?.role {
            Role::Operator => Ok(Self),
            Role::Tenant(_) => Err(ApiError::OperatorKeyRequired),
        }
    }
}

impl<T: FromStr> FromRequestParts<AppState> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|_| ApiError::NotFound)?;
        text.parse().map(Self).map_err(|_| ApiError::NotFound)
    }
}

/// Recognises the key in the headers.
async fn principal(
    headers: &HeaderMap,
    app: &AppState,
    peer: IpAddr,
    last: Option<&LastKey>,
) -> Result<Principal, ApiError> {
    let client = || client::address(peer, headers, &app.settings().trusted_proxies);
    let result = match headers.get(&X_API_KEY).map(|key| key.to_str()) {
        None => Err(ApiError::KeyMissing),
        // No key holds anything but ASCII.
        Some(Err(_)) => Err(ApiError::KeyInvalid),
        Some(Ok(key)) => {
            let watch = Stopwatch::start();
            let result = match last {
                Some(last) => app.authenticator.authenticate_again(key, last, watch, client).await,
                None => app.authenticator.authenticate(key, client).await,
            };
            app.metrics.auth_latency_seconds.observe(watch.seconds());
            result.map_err(ApiError::from)
        }
    };
    let rejected = match result {
        Err(ApiError::KeyMissing | ApiError::KeyInvalid) => Some(RejectedRequest::Unauthorized),
        Err(ApiError::Auth(AuthError::Throttled { .. })) => Some(RejectedRequest::Throttled),
        _ => None,
    };
    if let Some(reason) = rejected {
        app.metrics.rejected_request(reason).inc();
    }
    result
}
