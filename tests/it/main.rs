//! The integration tests: one binary, real parts.

mod delivery;
mod http;
mod spine;
mod store;
mod support;
mod torture;
