//! The integration tests: one binary, real parts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod app;
mod auth;
mod backup;
mod cli;
mod clients;
mod clocks;
mod cloud_events;
mod console;
mod damaged_pages;
mod damaged_rows;
mod delivery;
mod deployments;
mod descriptors;
mod erasing;
mod examples;
mod forwarded;
mod fuzz;
mod http;
mod https;
mod inboxes;
mod journal_faults;
mod leaks;
mod matrix;
mod otlp;
mod postgres_changes;
mod reads;
mod refused_events;
mod replica;
mod shares;
mod spine;
mod standard_webhooks;
mod store;
mod store_away;
mod support;
mod system_packages;
mod tenancy;
mod torture;
