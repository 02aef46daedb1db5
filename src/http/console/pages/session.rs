//! The session itself: whose it is, until when it lasts, and how all of them end.

use axum::response::Response;

use super::sign_in::with_cookies;
use crate::domain::ConsoleSession;
use crate::http::console::cookie::SessionCookie;
use crate::http::console::failure::{ConsoleError, see_other};
use crate::http::console::posted::PostedForm;
use crate::http::console::ui::{Button, Cell, ConsolePage, FactList, Panel, paragraph, span};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;

/// `GET /console/session`.
pub(in crate::http::console) async fn show(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let (session, principal) = (&visitor.open.session, &visitor.open.principal);
    let idle = span(ConsoleSession::IDLE_MAX.as_secs());
    if let Some(account) = visitor.open.principal.account.as_deref() {
        let facts = FactList::new("")
            .with("Account", Cell::text(account))
            .with("Scopes", Cell::code(principal.scopes))
            .with("Opened", Cell::time(session.created_at))
            .with("Ends", Cell::time(session.expires_at))
            .with("Ends when unused for", Cell::text(idle));
        return Ok(visitor.page("Session").section(facts.html()));
    }
    let facts = FactList::new("")
        .with("API key", Cell::text(&*visitor.open.key_name))
        .with("Key id", Cell::code(principal.key_id))
        .with_some("Organisation", Cell::maybe(visitor.open.org_name.as_deref()))
        .with("Scopes", Cell::code(principal.scopes))
        .with("Signed in", Cell::time(session.created_at))
        .with("Ends", Cell::time(session.expires_at))
        .with("Ends when unused for", Cell::text(idle));
    let everywhere =
        Button::new("Sign out everywhere", "/console/sign-out-everywhere", &visitor.csrf());
    let parts = vec![
        paragraph(
            "Ends every session of this key, this one too, and every link that was not used yet. The key itself goes on working.",
        ),
        everywhere
            .danger("Every browser that is signed in with this key must sign in again.")
            .html(),
    ];
    let page = visitor.page("Session").section(facts.html());
    Ok(page.section(Panel::html("Sign out everywhere", parts)))
}

/// `POST /console/sign-out-everywhere`.
pub(in crate::http::console) async fn sign_out_everywhere(
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    if visitor.is_portal() {
        // The key has the sessions of other accounts, too.
        return Err(ApiError::NotFound.into());
    }
    visitor.app.authenticator.end_sessions(visitor.open.session.key_id).await?;
    let forgotten = SessionCookie::Console.forget(visitor.transport);
    Ok(with_cookies(see_other("/console/sign-in"), forgotten))
}
