//! Extractors of a request's head: the caller (by its API key) and the id in the path.
//!
//! A key is sent as `X-API-Key` or as `Authorization: Bearer`. Two different ones are refused like an
//! invalid key: which of them the caller means is not known.

use std::net::IpAddr;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use schemars::{JsonSchema, SchemaGenerator};

use super::byte_budget::Owner;
use super::connection::Connection;
use super::error::ApiError;
use super::held_answer::AnswerOwner;
use super::problem;
use super::read_limit::ReadPermit;
use super::request::{Input, Label, RequestSchema, Text};
use super::request_context::RequestContext;
use super::state::AppState;
use super::{charges, client_ip};
use crate::auth::{AuthError, Principal};
use crate::domain::{Actor, OrgId, Role, Scope, Scopes};
use crate::http::metrics::RejectedRequest;
use crate::runtime::Stopwatch;

pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The organisation whose key was presented, with any scope. An operator's key is refused, and so is a
/// suspended organisation's.
#[derive(Clone, Debug)]
pub(super) struct Tenant {
    pub(super) org_id: OrgId,
    /// The key, its scopes and its organisation's limits.
    pub(super) principal: Arc<Principal>,
    address: IpAddr,
}

/// An operator. A tenant's key is refused.
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub(super) principal: Arc<Principal>,
    address: IpAddr,
}

/// A caller whose key has the scope that a route needs. A change costs one of the caller's write limit, a read one of
/// its read limit; it may have a few reads in progress, until this is dropped.
#[derive(Debug)]
pub(super) struct Scoped<N: Needs> {
    caller: N::Caller,
    _reading: Option<ReadPermit>,
}

/// What a route needs of a key: whose it is, and for what.
pub(super) trait Needs {
    type Caller: Caller;
    const SCOPE: Scope;
}

/// A caller with a key.
pub(super) trait Caller: Sized + Send {
    /// Checks whose key it is.
    fn of(principal: Arc<Principal>, address: IpAddr) -> Result<Self, ApiError>;
    fn principal(&self) -> &Principal;
    fn address(&self) -> IpAddr;

    /// As the audit log names it.
    fn actor(&self) -> Actor {
        let account = self.principal().account.clone();
        Actor::key(self.principal().key_id, Some(self.address())).of_account(account)
    }
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident: $caller:ty, $scope:ident;)+) => {
        $($(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name;

        impl Needs for $name {
            type Caller = $caller;
            const SCOPE: Scope = Scope::$scope;
        })+
    };
}

needs! {
    /// To post events.
    EventsWrite: Tenant, EventsWrite;
    /// To read events and what became of them.
    EventsRead: Tenant, EventsRead;
    /// To fetch events from inboxes and to settle them.
    InboxConsume: Tenant, InboxConsume;
    /// To read endpoints.
    EndpointsRead: Tenant, EndpointsRead;
    /// To read and change endpoints, and to have webhooks sent again.
    EndpointsManage: Tenant, EndpointsManage;
    /// To read the organisation's keys and its audit log.
    KeysRead: Tenant, KeysRead;
    /// To read and change the organisation's keys, and to read its audit log.
    KeysManage: Tenant, KeysManage;
    /// To erase events and accounts.
    DataErase: Tenant, DataErase;
    /// To read what operators see.
    OperatorRead: Operator, OperatorRead;
    /// To change what operators manage.
    OperatorWrite: Operator, OperatorWrite;
}

/// A consumer of inboxes. What it does is bounded by [`InboxPermit`](super::inbox_limit::InboxPermit), and costs nothing
/// of the limits of reads and writes.
#[derive(Debug)]
pub(super) struct Consumer(pub(super) Tenant);

/// The id in the path. A malformed one is not found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Id<T>(pub(super) T);

/// The account in the path, as its organisation names it. One that no event could have is not found.
#[derive(Clone, Debug)]
pub(super) struct AccountId(pub(super) String);

impl Caller for Tenant {
    fn of(principal: Arc<Principal>, address: IpAddr) -> Result<Self, ApiError> {
        match principal.role {
            Role::Tenant(_) if principal.suspended => Err(ApiError::OrgSuspended),
            Role::Tenant(org_id) => Ok(Self { org_id, principal, address }),
            Role::Operator => Err(ApiError::TenantKeyRequired),
        }
    }

    fn principal(&self) -> &Principal {
        &self.principal
    }

    fn address(&self) -> IpAddr {
        self.address
    }
}

impl Caller for Operator {
    fn of(principal: Arc<Principal>, address: IpAddr) -> Result<Self, ApiError> {
        match principal.role {
            Role::Operator => Ok(Self { principal, address }),
            Role::Tenant(_) => Err(ApiError::OperatorKeyRequired),
        }
    }

    fn principal(&self) -> &Principal {
        &self.principal
    }

    fn address(&self) -> IpAddr {
        self.address
    }
}

impl<N: Needs> Scoped<N> {
    /// The caller whose key is in the headers, most likely the last one that its connection presented.
    pub(super) async fn on_connection(
        headers: &HeaderMap,
        app: &AppState,
        connection: &Connection,
    ) -> Result<Self, ApiError> {
        let address = client_ip::address(connection.peer, headers, &app.settings().trusted_proxies);
        Self::of(principal(headers, app, address, Some(connection)).await?, address)
    }

    fn of(principal: Arc<Principal>, address: IpAddr) -> Result<Self, ApiError> {
        let caller = N::Caller::of(principal, address)?;
        if caller.principal().scopes.include(Scopes::of(N::SCOPE)) {
            return Ok(Self { caller, _reading: None });
        }
        Err(ApiError::ScopeRequired(Scopes::of(N::SCOPE)))
    }
}

impl<N: Needs> Scoped<N> {
    /// The caller whose key is in the headers, with the permit of a read.
    pub(super) async fn of_reader(
        headers: &HeaderMap,
        app: &AppState,
        address: IpAddr,
    ) -> Result<Self, ApiError> {
        let scoped = Self::of(principal(headers, app, address, None).await?, address)?;
        let reading = ReadPermit::take(app, scoped.principal()).await?;
        Ok(Self { _reading: Some(reading), ..scoped })
    }
}

impl<N: Needs> Deref for Scoped<N> {
    type Target = N::Caller;

    fn deref(&self) -> &N::Caller {
        &self.caller
    }
}

impl<N: Needs> FromRequestParts<AppState> for Scoped<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let (principal, address) = authenticated(parts, app).await?;
        let scoped = Self::of(principal, address)?;
        if parts.method.is_safe() {
            let reading = ReadPermit::take(app, scoped.principal()).await?;
            return Ok(Self { _reading: Some(reading), ..scoped });
        }
        // Events have limits of their own.
        if N::SCOPE != Scope::EventsWrite {
            charges::take_write(app, scoped.principal())?;
        }
        Ok(scoped)
    }
}

impl FromRequestParts<AppState> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let (principal, address) = authenticated(parts, app).await?;
        Self::of(principal, address)
    }
}

impl FromRequestParts<AppState> for Consumer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let (principal, address) = authenticated(parts, app).await?;
        Ok(Self(Scoped::<InboxConsume>::of(principal, address)?.caller))
    }
}

/// The caller of a routed request, and its address.
async fn authenticated(
    parts: &mut Parts,
    app: &AppState,
) -> Result<(Arc<Principal>, IpAddr), ApiError> {
    let peer = RequestContext::from_request_parts(parts, app).await?.peer;
    let address = client_ip::address(peer, &parts.headers, &app.settings().trusted_proxies);
    let principal = principal(&parts.headers, app, address, None).await?;
    if let Some(answer) = parts.extensions.get::<AnswerOwner>() {
        answer.set(Owner::of(&principal));
    }
    // Typed bodies check values against it.
    parts.extensions.insert(Arc::clone(&principal));
    Ok((principal, address))
}

impl<T: FromStr> FromRequestParts<AppState> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let Path(text) =
            Path::<String>::from_request_parts(parts, app).await.map_err(|_| ApiError::NotFound)?;
        text.parse().map(Self).map_err(|_| ApiError::NotFound)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for AccountId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| ApiError::NotFound)?;
        Label::from_text(&text).map(|Label(id)| Self(id)).ok_or(ApiError::NotFound)
    }
}

/// Authenticates the key in the headers.
async fn principal(
    headers: &HeaderMap,
    app: &AppState,
    address: IpAddr,
    connection: Option<&Connection>,
) -> Result<Arc<Principal>, ApiError> {
    let client = || address;
    let result = match presented_key(headers) {
        Err(error) => Err(error),
        Ok(key) => {
            let watch = Stopwatch::start();
            let result = match connection {
                Some(connection) => {
                    app.authenticator
                        .authenticate_on_connection(key, &connection.key_cache, watch, client)
                        .await
                }
                None => app.authenticator.authenticate(key, client).await,
            };
            app.metrics.http.auth_latency_seconds.observe(watch.seconds());
            result.map_err(ApiError::from)
        }
    };
    let rejected = match result {
        Err(ApiError::KeyMissing | ApiError::KeyInvalid) => Some(RejectedRequest::Unauthorized),
        Err(ApiError::Auth(AuthError::Throttled { .. })) => Some(RejectedRequest::Throttled),
        _ => None,
    };
    if let Some(reason) = rejected {
        app.metrics.http.rejected_requests_total.of(reason).inc();
    }
    result
}

/// The caller of a request from this peer, whatever it asks for.
pub(super) async fn caller(
    headers: &HeaderMap,
    app: &AppState,
    peer: IpAddr,
) -> Result<Arc<Principal>, ApiError> {
    let address = client_ip::address(peer, headers, &app.settings().trusted_proxies);
    principal(headers, app, address, None).await
}

/// The key that the headers present.
fn presented_key(headers: &HeaderMap) -> Result<&str, ApiError> {
    let api_key = headers.get(&X_API_KEY).map(HeaderValue::as_bytes);
    let bearer = headers.get(AUTHORIZATION).and_then(|value| bearer_token(value.as_bytes()));
    let key = match (api_key, bearer) {
        (Some(key), None) | (None, Some(key)) => key,
        (Some(key), Some(bearer)) if key == bearer => key,
        (Some(_), Some(_)) => return Err(ApiError::KeyInvalid),
        (None, None) => return Err(ApiError::KeyMissing),
    };
    // Keys are ASCII.
    std::str::from_utf8(key).map_err(|_| ApiError::KeyInvalid)
}

/// The token of `Authorization: Bearer`, RFC 6750 section 2.1; `None` for other schemes, which proxies
/// may use for themselves.
fn bearer_token(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

impl<N: Needs> Input for Scoped<N> {
    fn describe(schema: &mut RequestSchema) {
        schema.is_charged = N::SCOPE != Scope::EventsWrite;
    }
}

impl<T: JsonSchema> Input for Id<T> {
    fn describe(schema: &mut RequestSchema) {
        let path = T::json_schema(&mut SchemaGenerator::default());
        schema.path = Some(path.to_value());
        schema.problems.push(problem::NOT_FOUND);
    }
}

impl Input for AccountId {
    fn describe(schema: &mut RequestSchema) {
        schema.path = Some(Label::text_schema());
        schema.problems.push(problem::NOT_FOUND);
    }
}

impl Input for Tenant {}
impl Input for Consumer {}
impl Input for RequestContext {}
impl Input for State<AppState> {}
impl Input for Method {}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(headers: &[(&'static str, &'static str)]) -> Result<String, &'static str> {
        let entry = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers: HeaderMap = headers.iter().map(entry).collect();
        presented_key(&headers).map(str::to_owned).map_err(|error| match error {
            ApiError::KeyMissing => "missing",
            _ => "invalid",
        })
    }

    #[test]
    fn keys_come_in_either_header_and_two_different_ones_are_invalid() {
        let (api, auth) = ("x-api-key", "authorization");
        assert_eq!(key(&[(api, "k1")]).as_deref(), Ok("k1"));
        assert_eq!(key(&[(auth, "Bearer k1")]).as_deref(), Ok("k1"));
        assert_eq!(key(&[(auth, "bearer  k1")]).as_deref(), Ok("k1"));
        assert_eq!(key(&[(api, "k1"), (auth, "Bearer k1")]).as_deref(), Ok("k1"));
        assert_eq!(key(&[(api, "k1"), (auth, "Bearer k2")]), Err("invalid"));
        assert_eq!(key(&[(api, "k1"), (auth, "Basic abc")]).as_deref(), Ok("k1"));
        assert_eq!(key(&[(auth, "Basic abc")]), Err("missing"));
        assert_eq!(key(&[]), Err("missing"));
    }
}
