//! Hookgate: self-hosted, multi-tenant event ingest and webhook delivery.
//!
//! # The way of one event
//! 1. [`http`] takes a `POST`, gives it a trace id, and caps its body.
//! 2. [`auth`] turns its `X-API-Key` into a principal, from a cache.
//! 3. [`domain`] parses the body once: a checked new event, or every fault it has.
//! 4. [`limit`] takes the events from what the organisation may send.
//! 5. [`ingest`] mints ids and writes one record into the [`journal`], which syncs many requests'
//!    records at once. Then, and only then, the tenant reads `202`.
//! 6. The worker pool of [`ingest`] reads the journal back in batches and has the [`store`] write
//!    events with their deliveries, those first of who has few. The journal's checkpoint follows.
//! 7. [`delivery`] signs and sends, endpoint by endpoint, and records what became of it.
//!
//! [`app`] builds all of it from [`config`] and runs it; [`cli`] is the door for people. [`runtime`]
//! tells the time and stops things; [`telemetry`] shows operators what happens.
//!
//! # Rules
//! A module imports only modules above it here; `tests/tidy.rs` checks. Each folder's `mod.rs` tells
//! what its part is for, how it works and how it fails.

pub mod domain;

pub mod config;
pub mod runtime;
pub mod telemetry;

pub mod journal;
pub mod limit;
pub mod store;

pub mod auth;
pub mod delivery;

pub mod ingest;

pub mod api;

pub mod http;

pub mod app;
pub mod cli;
