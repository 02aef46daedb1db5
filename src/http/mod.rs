//! The HTTP API: what tenants, operators and probes can ask. It decides nothing itself.
//!
//! # Purpose
//! Turn requests into calls of use cases (`api`) and subsystems, and their results into answers.
//! `router` shows the whole API on one screen; [`serve`] runs it on a listener.
//!
//! # Constraints
//! - `POST /api/events` is the hot path. It bypasses the router, opens no span, looks up no metric
//!   label, builds no `serde_json::Value`, and writes its answer into one buffer.
//! - Bodies, pages, connections and the time of a request are bounded by named constants or settings.
//! - Bodies that are received and answers that are not read yet hold bytes of a budget, which bounds them in total and
//!   per organisation ([`byte_budget`]).
//!
//! # Operation
//! ```text
//! server: listener, TLS, limits ── hyper ── middleware: trace id, timeout, panics, error answers
//!                                             └─ router ── extractors: key, path, body, query
//!                                                            └─ route ── use case ── typed answer
//! ```
//! Bodies and queries are structs declared with [`request`]; answers are the views of `api`. A request
//! is refused with every fault listed at once. Unknown fields and query parameters are faults: a
//! misspelt filter that is ignored shows the wrong rows, and a misspelt field loses data.
//!
//! `console` serves the same use cases as pages for people.
//!
//! # Failure
//! Every refusal is an [`ApiError`]: [`PROBLEMS`] gives its status, code and title, its `Display` the
//! detail. The middleware writes the answer, since only it knows the trace id, and logs the cause
//! once. A row of another tenant is not found, like one that does not exist.
//!
//! **Invariant:** no handler but those of probes and problem pages runs before the caller is
//! authenticated, and nothing here names a store engine or reads the journal.

mod body;
mod body_buffer;
mod body_decoder;
mod byte_budget;
mod change_stream;
mod charges;
mod client_ip;
mod connection;
mod console;
mod cors;
mod entity_tag;
mod error;
mod error_detail;
mod error_text;
mod export;
mod extract;
mod head_scan;
mod header_extract;
mod held_answer;
mod idempotency;
mod inbox_limit;
mod metrics;
mod openapi;
mod outcome_wait;
mod paths;
mod pipeline_health;
mod problem;
mod rate_limit;
mod rate_limit_detail;
mod ratelimit_headers;
mod read_limit;
mod request;
mod request_context;
mod respond;
mod route;
mod route_hint;
mod router;
mod routes;
mod scrapes;
mod server;
mod server_span;
mod settling;
mod state;
mod static_answer;
mod stream_caller;
mod stream_limits;
mod transport;
mod unread_body;

pub use console::{ConsoleNeeds, ConsoleRoute, console_table};
pub use error::ApiError;
pub use metrics::{ApiMetrics, HttpMetrics, RejectedRequest};
pub use openapi::{Answers, Operation, Tag};
pub use problem::{PROBLEMS, Problem};
pub use request::RequestSchema;
pub use route::{Access, Route};
pub use router::{openapi_document, route_table};
pub use server::{Api, Tls, TlsError, serve};
pub use state::{AppState, Parts};
pub use stream_limits::StreamsExhausted;
