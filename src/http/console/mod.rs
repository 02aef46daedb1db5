//! The console: what tenants and operators see and do in a browser, from the same server.
//!
//! # Purpose
//! Show what the API shows, and change what it changes, for people. Pages are written here, by templates, and work
//! without scripts: every control is a link or a form. Scripts add times in the reader's zone, buttons that copy, parts
//! that are read again, and the live tail.
//!
//! # Operation
//! ```text
//! table: every page with what it needs ── response_headers: headers, compression
//!    └─ Visitor (GET) or PostedForm (POST): session, limits, for changes origin and token
//!          └─ page: a use case of `api`, as the API's own routes call it ── ui: the parts of a page
//! ```
//! One signs in with an API key, or by a link that works once. The session is bound to that key (`auth::session`) and
//! kept in a cookie ([`cookie`]). A session of the portal is limited to one account: pages take what it reaches
//! (`Visitor::reach`), and those of a whole organisation (`Visitor::org`) do not exist for it. Forms are turned into the
//! fields of the API's bodies, so that both have one set of rules.
//!
//! # Failure
//! An error is a page that says what to do and names the trace. While the store is away, sessions that this server
//! knows go on, and pages say so.
//!
//! **Invariant:** nothing here calls the store. A change is made by `POST` alone, from a page of this server, with the
//! token of its session. No page has a script or style in it, or asks another host for anything.

mod assets;
mod cookie;
mod explain;
mod failure;
mod found_session;
mod guard;
mod json_text;
mod lists;
mod navigation;
mod pages;
mod portal_look;
mod posted;
mod response_headers;
mod table;
mod ui;
mod visitor;

use axum::Router;

use super::state::AppState;

pub(super) use failure::page as failure;
pub use table::{ConsoleNeeds, ConsoleRoute, console_table};

/// The router of every page.
pub(super) fn router() -> Router<AppState> {
    table::router().layer(axum::middleware::from_fn(response_headers::answer))
}

/// Whether a path is the console's, so that its errors are pages.
pub(super) fn owns(path: &str) -> bool {
    path == "/" || path == "/console" || path.starts_with("/console/")
}
