//! Statements for PostgreSQL that are not written once yet.

mod audit;
mod cancels;
mod claims;
mod dead_letters;
mod deletion;
mod deliveries;
mod endpoints;
mod events;
mod keys;
mod maintenance;
mod orgs;
mod replays;
mod secrets;
mod standings;
mod usage;

use super::engine::{PostgresEngine, timestamptz as moment};
