//! Hookgate: self-hosted, multi-tenant event ingest and webhook delivery.
//!
//! # The way of one event
//! 1. [`http`] accepts a `POST`, gives it a trace id, and bounds its body.
//! 2. [`auth`] turns its API key into a principal, from a cache.
//! 3. [`domain`] parses the body once, into a checked new event or every violation.
//! 4. [`limit`] checks the organisation's rate limit.
//! 5. [`ingest`] mints ids and appends one record to the [`journal`], which syncs the records of many
//!    requests at once. Then, and only then, the tenant gets its `202`.
//! 6. The workers of [`ingest`] read the journal in batches, and the [`store`] writes events with
//!    their deliveries, small tenants first. The journal's checkpoint follows.
//! 7. [`delivery`] signs and sends, one queue per endpoint, and records every outcome.
//! 8. [`analytics`] folds what both have counted into the rollups that summaries and metrics are read from.
//!
//! [`api`] has the use cases that [`http`] and the command line, [`cli`], call. [`app`] builds every part
//! from [`config`] and runs it. [`runtime`] has the clock, shutdown and background threads,
//! [`telemetry`] logs, metrics and traces.
//!
//! # Rules
//! A module imports only modules above it here; `tests/tidy.rs` checks. Each folder's `mod.rs` opens
//! with its purpose, operation and failure modes.

pub mod domain;

pub mod config;
pub mod runtime;
pub mod telemetry;

pub mod journal;
pub mod limit;
pub mod store;

pub mod analytics;
pub mod auth;
pub mod delivery;

pub mod ingest;

pub mod api;

pub mod http;

pub mod app;
pub mod cli;
