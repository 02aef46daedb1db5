//! The integration tests: one binary, real parts.

mod app;
mod auth;
mod cli;
mod delivery;
mod examples;
mod fuzz;
mod http;
mod https;
mod leaks;
mod matrix;
mod spine;
mod standard_webhooks;
mod store;
mod support;
mod system_packages;
mod tenancy;
mod torture;
