//! Hookgate: self-hosted, multi-tenant event ingest and webhook delivery.

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

pub mod http;
