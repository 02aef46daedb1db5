//! The HTTP server: accepts connections, bounds them, and answers their requests.
//!
//! [`acceptor`] accepts connections and [`listener`] serves them until shutdown. [`conn_limit`] bounds how many
//! there are, [`conn_deadline`] how long each may wait or take, [`peer_watch`] ends long reads whose client is gone,
//! [`tls`] encrypts them, and [`middleware`]
//! wraps the API's router: trace id, timeout, panics, error answers.

mod acceptor;
mod access_log;
mod conn_deadline;
mod conn_limit;
mod listener;
mod middleware;
mod peer_watch;
mod request_counters;
mod tls;

pub(super) use conn_deadline::RequestDeadline;
pub use listener::serve;
pub use middleware::Api;
pub use tls::{Tls, TlsError};
