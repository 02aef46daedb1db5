//! Who looks at a page: the session in the cookie, and what it may do.
//!
//! A visitor without a session is sent to sign in, and comes back to where they were. What a visitor reads and changes
//! costs the same limits as by the API.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::cookie::{SessionCookie, Transport};
use super::failure::{ConsoleError, see_other};
use super::found_session::{self, FoundSession, HX_REQUEST, org_of, reach_of};
use super::guard::{self, SEC_FETCH_SITE};
use super::navigation;
use super::portal_look;
use super::ui::{ConsolePage, Frame, plain_page};
use crate::api::CallerReach;
use crate::auth::{OpenSession, SessionToken};
use crate::domain::{Actor, ListPosition, OrgId, Role, Scope, Scopes, TraceId};
use crate::http::charges;
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Tenant};
use crate::http::read_limit::ReadPermit;
use crate::http::request::RequestedList;
use crate::http::request_context::RequestContext;
use crate::http::state::AppState;

const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");
const REFRESH: HeaderName = HeaderName::from_static("refresh");
/// The longest path that a visitor comes back to.
const NEXT_BYTES_MAX: usize = 2048;
/// Somebody with a session.
pub(super) struct Visitor {
    pub(super) app: AppState,
    pub(super) open: Arc<OpenSession>,
    pub(super) trace_id: TraceId,
    pub(super) transport: Transport,
    pub(super) token: SessionToken,
    /// The path of the page.
    path: String,
    query: String,
    pub(super) address: IpAddr,
    reading: Option<ReadPermit>,
}

impl Visitor {
    /// The visitor who makes a request.
    pub(super) async fn of(parts: &mut Parts, app: &AppState) -> Result<Self, Response> {
        let context = RequestContext::from_request_parts(parts, app).await;
        let context = context.map_err(IntoResponse::into_response)?;
        let found = found_session::find(parts, app).await.map_err(IntoResponse::into_response)?;
        let Some(FoundSession { open, token, transport, address }) = found else {
            return Err(sign_in(parts, Transport::of(app, &parts.headers, context.peer)));
        };
        let reading = if parts.method.is_safe() {
            let permit = ReadPermit::take(app, &open.principal).await;
            Some(permit.map_err(IntoResponse::into_response)?)
        } else {
            // A change of an organisation is charged once it is allowed: a key that may not make it uses up nobody's limit.
            if open.principal.role == Role::Operator {
                let charged = charges::take_write(app, &open.principal);
                charged.map_err(IntoResponse::into_response)?;
            }
            None
        };
        Ok(Self {
            app: app.clone(),
            open,
            trace_id: context.trace_id,
            transport,
            token,
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            address,
            reading,
        })
    }

    /// The organisation that is read, if the session may and reads all of it.
    pub(super) fn org(&self, scope: Scope) -> Result<OrgId, ConsoleError> {
        org_of(&self.open, scope)
    }

    /// What is read, if the session may: of the organisation, or in the portal of its account.
    pub(super) fn reach(&self, scope: Scope) -> Result<CallerReach, ConsoleError> {
        reach_of(&self.open, scope)
    }

    /// The organisation that is changed, and who changes it, if the session is for all of it. Takes the change from the
    /// organisation's limit.
    pub(super) fn org_change(&self, scope: Scope) -> Result<(OrgId, Actor), ConsoleError> {
        self.org(scope)?;
        let (reach, by) = self.change(scope)?;
        Ok((reach.org(), by))
    }

    /// What is changed, and who changes it. Takes the change from the limit.
    pub(super) fn change(&self, scope: Scope) -> Result<(CallerReach, Actor), ConsoleError> {
        let allowed = self.allowed_change(scope)?;
        charges::take_write(&self.app, &self.open.principal)?;
        Ok(allowed)
    }

    fn allowed_change(&self, scope: Scope) -> Result<(CallerReach, Actor), ConsoleError> {
        if self.is_read_only() {
            return Err(ConsoleError::READ_ONLY);
        }
        Ok((self.reach(scope)?, self.actor()))
    }

    /// Whether this is the portal of an account.
    pub(super) fn is_portal(&self) -> bool {
        self.open.principal.account.is_some()
    }

    /// An operator who may do this, and looks into no organisation.
    pub(super) fn operator(&self, scope: Scope) -> Result<Actor, ConsoleError> {
        let principal = &self.open.principal;
        if self.is_portal() {
            return Err(ApiError::NotFound.into());
        }
        if principal.role != Role::Operator {
            return Err(ApiError::OperatorKeyRequired.into());
        }
        if scope != Scope::OperatorRead && self.is_read_only() {
            return Err(ConsoleError::READ_ONLY);
        }
        if !principal.scopes.include(Scopes::of(scope)) {
            return Err(ApiError::ScopeRequired(Scopes::of(scope)).into());
        }
        Ok(self.actor())
    }

    /// Whether a control is shown that needs this scope to change something.
    pub(super) fn may(&self, scope: Scope) -> bool {
        let of_operator = matches!(
            scope,
            Scope::OperatorRead | Scope::OperatorWrite | Scope::OperatorImpersonate
        );
        if of_operator { self.operator(scope).is_ok() } else { self.allowed_change(scope).is_ok() }
    }

    /// The permit of this read, for what goes on after the page.
    pub(super) fn take_reading(&mut self) -> Option<ReadPermit> {
        self.reading.take()
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.viewed_org().is_some()
    }

    /// The organisation that an operator looks into.
    pub(super) fn viewed_org(&self) -> Option<OrgId> {
        self.open.session.grants.viewed_org
    }

    /// The same as the API knows a caller.
    pub(super) fn tenant(&self) -> Result<Tenant, ConsoleError> {
        Ok(Tenant::of(Arc::clone(&self.open.principal), self.address)?)
    }

    /// As the audit log names them.
    pub(super) fn actor(&self) -> Actor {
        let account = self.open.principal.account.clone();
        Actor::key(self.open.principal.key_id, Some(self.address)).of_account(account)
    }

    /// The token of this session's forms.
    pub(super) fn csrf(&self) -> String {
        guard::token(&self.token)
    }

    /// The path of the page with its query, to come back to.
    pub(super) fn here(&self) -> String {
        if self.query.is_empty() {
            self.path.clone()
        } else {
            format!("{}?{}", self.path, self.query)
        }
    }

    /// The path of the page with another position in its list, or without one.
    pub(super) fn at_cursor(&self, cursor: Option<String>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in form_urlencoded::parse(self.query.as_bytes()) {
            if !matches!(&*name, "cursor" | "done") && !value.is_empty() {
                query.append_pair(&name, &value);
            }
        }
        if let Some(cursor) = cursor {
            query.append_pair("cursor", &cursor);
        }
        let query = query.finish();
        if query.is_empty() { self.path.clone() } else { format!("{}?{query}", self.path) }
    }

    /// Links to the first page of a list and to the next one.
    pub(super) fn pages(&self, next: Option<impl ToString>) -> (Option<String>, Option<String>) {
        let is_first =
            !form_urlencoded::parse(self.query.as_bytes()).any(|(name, _)| name == "cursor");
        let first = (!is_first).then(|| self.at_cursor(None));
        (first, next.map(|next| self.at_cursor(Some(next.to_string()))))
    }

    /// The same of a list whose cursors belong to it.
    pub(super) fn list_pages<P: ListPosition>(
        &self,
        list: &RequestedList<P>,
        next: Option<P>,
    ) -> (Option<String>, Option<String>) {
        self.pages(next.map(|next| list.cursor(next, false)))
    }

    /// A parameter of the query, unless it is empty.
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        let found = pairs.find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.into_owned())
    }

    /// The same as a value; `None` for one that is malformed, too.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.parameter(name)?.parse().ok()
    }

    /// A page of this session.
    pub(super) fn page(&self, title: impl Into<String>) -> ConsolePage {
        let mut page = ConsolePage::new(title);
        page.flash = self.parameter("done").and_then(|done| navigation::flash(&done));
        if let Some(account) = &self.open.principal.account {
            page.frame = Some(Frame { who: account.to_string(), csrf: self.csrf() });
            page.nav = navigation::portal(&self.path, |scope| self.reach(scope).is_ok());
            page.brand = Some(portal_look::brand(&self.open));
            return page;
        }
        let name = self.open.org_name.as_deref().unwrap_or("Operator");
        page.frame =
            Some(Frame { who: format!("{name} · {}", self.open.key_name), csrf: self.csrf() });
        let is_tenant = self.open.principal.role != Role::Operator || self.viewed_org().is_some();
        let may = |scope| {
            if is_tenant { self.org(scope).is_ok() } else { self.operator(scope).is_ok() }
        };
        page.nav = navigation::items(&self.path, is_tenant, may);
        page.viewing = self.viewed_org().map(|org| navigation::viewing(org, &self.csrf()));
        page
    }
}

impl FromRequestParts<AppState> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Response> {
        if !parts.method.is_safe() {
            // Changes come with the token of a form, which `PostedForm` checks.
            return Err(ConsoleError::FORGED.into_response());
        }
        Self::of(parts, app).await
    }
}

/// Sends somebody without a session to sign in.
///
/// A browser that follows a link of another site leaves the cookie out, since it is `SameSite=Strict`. So it is asked
/// once to load the page again, which then is a request of this site.
fn sign_in(parts: &Parts, transport: Transport) -> Response {
    if SessionCookie::Portal.token(transport, &parts.headers).is_some()
        && SessionCookie::Console.token(transport, &parts.headers).is_none()
    {
        return portal_look::ended();
    }
    let next = parts.uri.path_and_query().map_or("/console", |next| next.as_str());
    let is_page = parts.method.is_safe();
    let site = parts.headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if is_page && site == Some(b"cross-site") && is_own_path(next) {
        let page = plain_page("One moment").lead("The page loads again.");
        let mut response = page.into_response();
        if let Ok(refresh) = HeaderValue::try_from(format!("0; url={next}")) {
            response.headers_mut().insert(REFRESH, refresh);
        }
        return response;
    }
    let to = if is_page { sign_in_path(next) } else { "/console/sign-in?ended=true".to_owned() };
    let mut response = see_other(&to);
    if parts.headers.contains_key(&HX_REQUEST) {
        *response.status_mut() = axum::http::StatusCode::OK;
        if let Ok(to) = HeaderValue::try_from(to) {
            response.headers_mut().insert(HX_REDIRECT, to);
        }
    }
    response
}

/// Where one signs in to come to a page.
fn sign_in_path(next: &str) -> String {
    if next == "/console" || !is_own_path(next) {
        return "/console/sign-in".to_owned();
    }
    let mut query = form_urlencoded::Serializer::new(String::new());
    format!("/console/sign-in?{}", query.append_pair("next", next).finish())
}

/// Whether this is a path of the console, and nothing that a browser takes for another host.
pub(super) fn is_own_path(path: &str) -> bool {
    let is_own =
        path == "/console" || path.starts_with("/console/") || path.starts_with("/console?");
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    is_own && is_plain && path.len() <= NEXT_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site() {
        for own in ["/console", "/console/events?type=a.*", "/console?done=x"] {
            assert!(is_own_path(own), "{own}");
        }
        for other in [
            "https://evil.example/console",
            "//evil.example",
            "/consolex",
            "/console/\\evil",
            "/console/a b",
            "/api/events",
            "",
        ] {
            assert!(!is_own_path(other), "{other}");
        }
    }
}
