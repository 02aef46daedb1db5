//! The session of a request, and what it reads.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::ACCEPT;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::cookie::{SessionCookie, Transport};
use super::failure::ConsoleError;
use super::response_headers::Framing;
use crate::api::CallerReach;
use crate::auth::{OpenSession, SessionToken};
use crate::domain::{OrgId, Role, Scope, Scopes};
use crate::http::byte_budget::Owner;
use crate::http::client_ip;
use crate::http::error::ApiError;
use crate::http::held_answer::AnswerOwner;
use crate::http::request_context::RequestContext;
use crate::http::state::AppState;

pub(super) const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
/// What an operator sees of the organisation that they look into.
const VIEWED: Scopes =
    Scopes::of(Scope::EventsRead).with(Scope::EndpointsRead).with(Scope::KeysRead);

/// The session of a request.
pub(super) struct FoundSession {
    pub(super) open: Arc<OpenSession>,
    pub(super) token: SessionToken,
    pub(super) transport: Transport,
    pub(super) address: IpAddr,
}

/// The organisation that a session reads, if it may and reads all of it. To a session of the portal, what is not of its
/// account does not exist.
pub(super) fn org_of(open: &OpenSession, scope: Scope) -> Result<OrgId, ConsoleError> {
    if open.principal.account.is_some() {
        return Err(ApiError::NotFound.into());
    }
    Ok(reach_of(open, scope)?.org())
}

/// What a session reads, if it may.
pub(super) fn reach_of(open: &OpenSession, scope: Scope) -> Result<CallerReach, ConsoleError> {
    let account = open.principal.account.clone();
    Ok(CallerReach::new(readable_org(open, scope)?, account))
}

fn readable_org(open: &OpenSession, scope: Scope) -> Result<OrgId, ConsoleError> {
    let (principal, viewed) = (&open.principal, open.session.grants.viewed_org);
    match (principal.role, viewed) {
        (Role::Tenant(org), _) if principal.scopes.include(Scopes::of(scope)) => Ok(org),
        (Role::Tenant(_), _) => Err(ApiError::ScopeRequired(Scopes::of(scope)).into()),
        (Role::Operator, Some(_))
            if !principal.scopes.include(Scopes::of(Scope::OperatorImpersonate)) =>
        {
            Err(ApiError::ScopeRequired(Scopes::of(Scope::OperatorImpersonate)).into())
        }
        (Role::Operator, Some(org)) if VIEWED.include(Scopes::of(scope)) => Ok(org),
        (Role::Operator, Some(_)) => Err(ConsoleError::READ_ONLY),
        (Role::Operator, None) => Err(ApiError::TenantKeyRequired.into()),
    }
}

/// Whether somebody asks for something, and not a page that is read again by itself.
fn is_use(headers: &HeaderMap) -> bool {
    let is_stream = headers.get(ACCEPT).is_some_and(|kind| kind == "text/event-stream");
    !is_stream && !headers.contains_key(&HX_REQUEST)
}

/// Finds the session of a request.
///
/// # Errors
/// When its cookie cannot be checked now.
pub(super) async fn find(
    parts: &mut Parts,
    app: &AppState,
) -> Result<Option<FoundSession>, ApiError> {
    let peer = RequestContext::from_request_parts(parts, app).await?.peer;
    let address = client_ip::address(peer, &parts.headers, &app.settings().trusted_proxies);
    let transport = Transport::of(app, &parts.headers, peer);
    let mut refused = None;
    for cookie in SessionCookie::ALL {
        let Some(token) = cookie.token(transport, &parts.headers) else { continue };
        let found = match app.authenticator.session(&token, address, is_use(&parts.headers)).await {
            Ok(found) => found,
            // The other cookie may be of a session that is known.
            Err(error) => {
                refused = Some(error);
                continue;
            }
        };
        let is_its = |open: &Arc<OpenSession>| SessionCookie::of(open.session.kind) == cookie;
        let Some(open) = found.filter(is_its) else { continue };
        if let Some(answer) = parts.extensions.get::<AnswerOwner>() {
            answer.set(Owner::of(&open.principal));
        }
        if let Some(portal) = &open.portal {
            Framing::allow(parts, &portal.allowed_origins);
        }
        return Ok(Some(FoundSession { open, token, transport, address }));
    }
    match refused {
        Some(error) => Err(error.into()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn pages_that_are_left_open_do_not_use_the_session() {
        let headers = |name: HeaderName, value| {
            HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
        };
        assert!(is_use(&HeaderMap::new()) && is_use(&headers(ACCEPT, "text/html")));
        assert!(!is_use(&headers(HX_REQUEST, "true")));
        assert!(!is_use(&headers(ACCEPT, "text/event-stream")));
    }
}
