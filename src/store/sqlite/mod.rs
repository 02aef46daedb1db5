//! Statements for SQLite that are not written once yet.

mod audit;
mod claims;
pub(super) mod events;
mod keys;
mod maintenance;
mod orgs;
mod secrets;
mod usage;

use super::engine::{MultiRow, SqliteEngine, id_list, sqlite_arguments as arguments};
