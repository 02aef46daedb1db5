//! Webhooks to real receivers, out of a real store.

mod attempts;
mod guard;
mod isolation;
mod names;
mod outage;
mod stopping;
mod tls;
mod world;
