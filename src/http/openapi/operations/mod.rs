//! The words of every operation, in the order of the router.

mod admin;
mod analytics;
mod dead_letters;
mod deliveries;
mod endpoints;
mod events;
mod org;
mod server;

pub(in crate::http) use admin::*;
pub(in crate::http) use analytics::*;
pub(in crate::http) use dead_letters::*;
pub(in crate::http) use deliveries::*;
pub(in crate::http) use endpoints::*;
pub(in crate::http) use events::*;
pub(in crate::http) use org::*;
pub(in crate::http) use server::*;
