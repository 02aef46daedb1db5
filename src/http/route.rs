//! One route of the API, as the table of the router lists it.

use axum::http::Method;

use super::openapi::{Answers, Operation};
use super::request::RequestSchema;
use crate::domain::Scope;

/// Whose key a route takes. Handlers ask for it by their extractor; the matrix of the integration
/// tests walks every route to prove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An organisation's key with this scope; `None` takes any scope. It reaches only its own data.
    Tenant(Option<Scope>),
    /// An operator's key with this scope.
    Operator(Scope),
    /// None: documentation, probes and scrapers.
    Anyone,
}

/// A route as the table lists it.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its method. A route that takes `GET` takes `HEAD`, too.
    pub method: Method,
    /// Its path, as in `/api/events/{id}`.
    pub path: &'static str,
    /// Whose key it takes.
    pub access: Access,
    /// What it takes in path, query, headers and body.
    pub request: RequestSchema,
    /// What people are told of it.
    pub operation: &'static Operation,
    /// What it answers when it succeeds.
    pub answers: fn(&mut Answers<'_>),
}
