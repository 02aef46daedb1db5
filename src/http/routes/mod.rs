//! The handlers, one file per resource. Each reads top to bottom: who asks, for what, which subsystem
//! is called, what is answered.

pub(super) mod accounts;
pub(super) mod analytics;
pub(super) mod audit;
pub(super) mod dead_letters;
pub(super) mod deliveries;
pub(super) mod docs;
pub(super) mod endpoint_secrets;
pub(super) mod endpoint_test;
pub(super) mod endpoints;
pub(super) mod erasures;
pub(super) mod events;
pub(super) mod exports;
pub(super) mod health;
pub(super) mod inbox;
pub(super) mod keys;
pub(super) mod logs;
pub(super) mod metrics;
pub(super) mod orgs;
pub(super) mod own_keys;
pub(super) mod own_org;
pub(super) mod portal;
pub(super) mod problems;
pub(super) mod replays;
pub(super) mod servers;
pub(super) mod stream;

mod deduplication;
mod event_answers;
mod event_bodies;
mod event_forms;
mod post_events;
