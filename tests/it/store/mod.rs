//! The conformance suite of the store contract: every promise once, held by both backends.
//!
//! A test is a function of a [`Subject`]; [`on_both`] makes a test of it for each backend.

mod auditing;
mod cancels;
mod changes;
mod claims;
mod days;
mod dead_letter_filters;
mod deadlocks;
mod dedup;
mod delivery_counts;
mod delivery_filters;
mod discards;
mod endpoints;
mod erasure_counts;
mod erasure_plans;
mod erasures;
mod event_filters;
mod events;
mod failing_endpoints;
mod filters;
mod fixtures;
mod idempotency;
mod inboxes;
mod isolation;
mod keys;
mod late_events;
mod list_work;
mod maintenance;
mod ordered;
mod orgs;
mod outage;
mod outcomes;
mod pages;
mod pending_migration;
mod preconditions;
mod reads;
mod replays;
mod retention;
mod retention_days;
mod retries;
mod rollup_ageing;
mod rollup_lists;
mod rollup_outcomes;
mod rollup_plans;
mod rollups;
mod schedule;
mod secrets;
mod sessions;
mod standings;
mod subject;
mod tenancy;

pub(crate) use fixtures::ALL_LETTERS;
pub(crate) use reads::ENDLESS;
use subject::{Subject, on_both};
