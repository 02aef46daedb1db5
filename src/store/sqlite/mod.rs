//! Statements for SQLite that are not written once yet.

mod audit;
mod cancels;
mod claims;
mod dead_letters;
mod deletion;
pub(super) mod deliveries;
mod endpoints;
pub(super) mod events;
mod keys;
mod maintenance;
mod orgs;
pub(super) mod replays;
mod secrets;
mod standings;
mod usage;

use super::engine::{MultiRow, SqliteEngine, id_list, sqlite_arguments as arguments};
