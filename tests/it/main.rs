//! The integration tests: one binary, real parts.

mod delivery;
mod http;
mod store;
mod support;
