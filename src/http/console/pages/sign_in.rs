//! Signing in, by a key or by a link that works once, and signing out.

use std::net::IpAddr;

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use crate::auth::{OpenedLink, SessionToken};
use crate::domain::{ConsoleSession, SessionKind};
use crate::http::byte_budget::Owner;
use crate::http::charges;
use crate::http::client_ip;
use crate::http::console::cookie::{SessionCookie, Transport};
use crate::http::console::failure::{ConsoleError, of_sign_in, see_other};
use crate::http::console::guard;
use crate::http::console::portal_look;
use crate::http::console::posted::{FormData, PostedForm};
use crate::http::console::response_headers::Framing;
use crate::http::console::ui::{
    Brand, ConsoleForm, ConsolePage, FieldKind, FormField, Panel, paragraph, plain_page,
};
use crate::http::console::visitor::is_own_path;
use crate::http::error::ApiError;
use crate::http::request_context::RequestContext;
use crate::http::state::AppState;

/// Why nobody signs in over plain http.
const NEEDS_TLS: &str = "The console needs TLS: over plain http everybody on the way could read your key and your \
                         session. Set TLS_CERT and TLS_KEY, or have a proxy that speaks https send X-Forwarded-Proto \
                         and list it in TRUSTED_PROXIES. On the machine of the server itself, http://localhost works.";

/// `GET /`.
pub(in crate::http::console) async fn root() -> Response {
    see_other("/console")
}

/// `GET /console/sign-in`.
pub(in crate::http::console) async fn form(
    State(app): State<AppState>,
    mut parts: Parts,
) -> Result<Response, ConsoleError> {
    let transport = transport(&mut parts, &app).await?;
    let query = parts.uri.query().unwrap_or_default();
    let has_ended = form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "ended");
    let fault = has_ended.then_some("Your session has ended. Sign in to go on.");
    Ok(page(transport, &next(&parts.uri), fault).into_response())
}

/// `POST /console/sign-in`.
pub(in crate::http::console) async fn submit(
    State(app): State<AppState>,
    request: Request,
) -> Result<Response, ConsoleError> {
    if !guard::is_same_origin(request.headers()) {
        return Err(ConsoleError::FORGED);
    }
    let (mut parts, body) = request.into_parts();
    let transport = transport(&mut parts, &app).await?;
    let client = client(&mut parts, &app).await?;
    let request = Request::from_parts(parts, body);
    let form = FormData::read(&app, Owner::Anyone, request).await?;
    let next = Some(form.text("next")).filter(|next| is_own_path(next)).unwrap_or("/console");
    let refused = |fault| {
        let page = page(transport, next, Some(fault));
        Ok(page.status(StatusCode::UNPROCESSABLE_ENTITY).into_response())
    };
    if transport == Transport::Plain {
        return refused(NEEDS_TLS);
    }
    let principal = match app.authenticator.authenticate(form.text("key"), || client).await {
        Ok(principal) => principal,
        Err(error) => {
            return of_sign_in(&error).map_or_else(|| Err(ApiError::from(error).into()), refused);
        }
    };
    if principal.suspended {
        return refused("The organisation of this key is suspended. Ask who operates this server.");
    }
    // Not from the changes: whoever has any key of the organisation could keep others from making some.
    charges::take_read(&app, &principal)?;
    let Some(token) = app.authenticator.open_session(principal.key_id).await? else {
        return refused("This key was rotated. Sign in with its successor.");
    };
    Ok(signed_in(see_other(next), transport, &token))
}

/// An answer that keeps a session of the console, and drops one of the portal, which would come first.
fn signed_in(response: Response, transport: Transport, token: &SessionToken) -> Response {
    let lasts = ConsoleSession::LASTS;
    let kept = SessionCookie::Console.keep(transport, token, lasts, false);
    with_cookies(response, kept.into_iter().chain(SessionCookie::Portal.forget(transport)))
}

/// `GET /console/link/{token}`: a button that uses the link. Loading the page does not: previews of a message and
/// scanners load it, too.
pub(in crate::http::console) async fn link(
    State(app): State<AppState>,
    Path(token): Path<String>,
    mut parts: Parts,
) -> Result<Response, ConsoleError> {
    let transport = transport(&mut parts, &app).await?;
    if transport == Transport::Plain {
        return Ok(page(transport, "/console", None).into_response());
    }
    let client = client(&mut parts, &app).await?;
    let looks = match SessionToken::parse(&token) {
        Some(link) => app.authenticator.look_at_link(&link, client).await?,
        None => None,
    };
    let Some(looks) = looks else { return Ok(link_ended(transport)) };
    let action = format!("/console/link/{token}");
    let Some(portal) = &looks.portal else {
        let form = vec![
            paragraph("This link opens the console once, in this browser."),
            ConsoleForm::post(action, "", "Sign in").html(),
        ];
        return Ok(plain_page("Sign in").section(Panel::html("", form)).into_response());
    };
    Framing::allow(&parts, &portal.allowed_origins);
    let form = vec![
        paragraph("This link opens the page of your webhooks once, in this browser."),
        ConsoleForm::post(action, "", "Open").html(),
    ];
    let name = portal.name.clone().or(looks.org_name).unwrap_or_default();
    let mut page = plain_page("Webhooks").section(Panel::html("", form));
    page.brand = Some(Brand::named(name));
    Ok(page.into_response())
}

/// `POST /console/link/{token}`: opens the session of a link, once.
pub(in crate::http::console) async fn use_link(
    State(app): State<AppState>,
    Path(token): Path<String>,
    mut parts: Parts,
) -> Result<Response, ConsoleError> {
    if !guard::is_same_origin(&parts.headers) {
        return Err(ConsoleError::FORGED);
    }
    let transport = transport(&mut parts, &app).await?;
    if transport == Transport::Plain {
        return Ok(page(transport, "/console", None).into_response());
    }
    let client = client(&mut parts, &app).await?;
    let opened = match SessionToken::parse(&token) {
        Some(link) => app.authenticator.use_link(&link, client).await?,
        None => None,
    };
    let Some(OpenedLink { token, session, portal }) = opened else {
        return Ok(link_ended(transport));
    };
    let to = see_other("/console");
    if session.kind != SessionKind::Portal {
        return Ok(signed_in(to, transport, &token));
    }
    let portal = portal.unwrap_or_default();
    Framing::allow(&parts, &portal.allowed_origins);
    let lasts = session.expires_at.since(session.created_at);
    let is_framed = !portal.allowed_origins.is_empty();
    let kept = SessionCookie::Portal.keep(transport, &token, lasts, is_framed);
    Ok(with_cookies(to, kept))
}

fn link_ended(transport: Transport) -> Response {
    let fault =
        "This link was used already, or has ended. Ask for a new one, or sign in with an API key.";
    page(transport, "/console", Some(fault)).status(StatusCode::NOT_FOUND).into_response()
}

/// `POST /console/sign-out`.
pub(in crate::http::console) async fn sign_out(
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    visitor.app.authenticator.end_session(&visitor.open).await?;
    let cookie = SessionCookie::of(visitor.open.session.kind);
    let answer = if visitor.is_portal() {
        portal_look::closed(&visitor.open).into_response()
    } else {
        see_other("/console/sign-in")
    };
    Ok(with_cookies(answer, cookie.forget(visitor.transport)))
}

/// An answer that sets these cookies.
pub(super) fn with_cookies(
    mut response: Response,
    cookies: impl IntoIterator<Item = HeaderValue>,
) -> Response {
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

async fn client(parts: &mut Parts, app: &AppState) -> Result<IpAddr, ApiError> {
    let peer = RequestContext::from_request_parts(parts, app).await?.peer;
    Ok(client_ip::address(peer, &parts.headers, &app.settings().trusted_proxies))
}

async fn transport(parts: &mut Parts, app: &AppState) -> Result<Transport, ApiError> {
    let peer = RequestContext::from_request_parts(parts, app).await?.peer;
    Ok(Transport::of(app, &parts.headers, peer))
}

/// Where a visitor goes once they are signed in.
fn next(uri: &Uri) -> String {
    let query = uri.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    let next = pairs.find(|(name, value)| name == "next" && is_own_path(value));
    next.map_or_else(|| "/console".to_owned(), |(_, value)| value.into_owned())
}

fn page(transport: Transport, next: &str, fault: Option<&str>) -> ConsolePage {
    let mut parts = Vec::new();
    if transport == Transport::Plain {
        parts.push(Panel::warning(NEEDS_TLS));
        return plain_page("Sign in").section(Panel::html("", parts));
    }
    parts.extend(fault.map(Panel::warning));
    let key = FormField::new("key", "API key", FieldKind::Input("password"));
    let hint = "A key of an organisation, or of an operator. The session may do what the key may, and ends with it.";
    let form = ConsoleForm::post("/console/sign-in", "", "Sign in")
        .field(key.hint(hint).required().complete("current-password"))
        .field(FormField::new("next", "", FieldKind::Hidden).value(next));
    parts.push(form.html());
    plain_page("Sign in").section(Panel::html("", parts))
}
