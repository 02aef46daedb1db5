//! The HTTP API over real sockets.

mod admin;
mod answers;
mod auth;
mod bodies;
mod deliveries;
mod endpoint_secrets;
mod endpoints;
mod events;
mod headers;
mod health;
mod idempotency;
mod ingest;
mod isolation;
mod key_bounds;
mod limits;
mod memory;
mod merge_patch;
mod ndjson;
mod problems;
mod raw;
mod reads;
mod replays;
mod requests;
mod shutdown;
mod tenancy;
mod wire;
