//! Statements for PostgreSQL that are not written once yet.

mod audit;
mod claims;
mod events;
mod keys;
mod maintenance;
mod orgs;
mod secrets;
mod usage;

use super::engine::{PostgresEngine, timestamptz as moment};
