//! The HTTP API over real sockets.

#![expect(clippy::unwrap_used, reason = "a broken helper is a failed test")]

mod admin;
mod auth;
mod deliveries;
mod endpoints;
mod events;
mod health;
mod ingest;
mod isolation;
mod ndjson;
mod problems;
mod raw;
mod shutdown;
