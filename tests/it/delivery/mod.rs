//! Webhooks to real receivers, out of a real store.

mod attempts;
mod guard;
mod isolation;
mod outage;
mod signing;
mod stopping;
mod world;
