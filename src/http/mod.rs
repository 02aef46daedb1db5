//! The HTTP API: what tenants, operators and probes can ask, and nothing that decides.
//!
//! # Purpose
//! Turn requests into calls of the parts below, and their outcomes into answers. `router` shows the
//! whole API on one screen; [`serve`] runs it on a listener.
//!
//! # Constraints
//! - The way of `POST /api/events` is the product's speed. It passes no router, opens no span,
//!   looks up no metric label, builds no `serde_json::Value`, and writes its answer into one buffer.
//! - Bodies, pages, connections and the time of a request are bounded by named constants or settings.
//!
//! # Operation
//! ```text
//! connection ── hyper ── envelope: trace id, timeout, panics, problems
//!                          └─ route ── Tenant | Operator (auth) ── query, path, body ── a part below
//! ```
//! What callers send becomes a value of the domain here or is refused with every fault listed at
//! once. Unknown fields and unknown query parameters are faults: a misspelt filter that is ignored
//! shows the wrong rows, a misspelt field loses data. (Only the routes that take events in do not look
//! at their query string: they have no parameter that could be misspelt.)
//!
//! # Failure
//! Every refusal is an [`ApiError`], and one exhaustive match gives each its status, `code` and
//! words as RFC 9457 problem details. The envelope writes the answer, since it alone knows the trace
//! id, and logs the cause, if there is one, once. A row of another tenant is not found, like one
//! that does not exist.
//!
//! **Invariant:** no handler runs before its principal is known, but for the probes, and nothing
//! here names a store backend or reads the journal.

mod body;
mod client_ip;
mod connection;
mod cors;
mod error;
mod error_detail;
mod extract;
mod metrics;
mod pipeline_health;
mod problem;
mod rate_limit;
mod ratelimit_headers;
mod request;
mod request_context;
mod respond;
mod router;
mod routes;
mod server;
mod state;

pub use error::ApiError;
pub use metrics::{ApiMetrics, HttpMetrics, RejectedRequest};
pub use problem::{PROBLEMS, Problem};
pub use request::RequestSchema;
pub use router::{Access, Route, route_table};
pub use server::{Api, Tls, TlsError, serve};
pub use state::{AppState, Parts};
