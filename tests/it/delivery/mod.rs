//! Webhooks to real receivers, out of a real store.

mod attempts;
mod connections;
mod faults;
mod guard;
mod isolation;
mod names;
mod outage;
mod process;
mod servers;
mod signing;
mod stopping;
mod tls;
mod world;
