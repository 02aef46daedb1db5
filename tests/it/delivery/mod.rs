//! Delivery tests: webhooks from a real store to real receivers.

mod attempts;
mod breaker;
mod changes;
mod connections;
mod dns;
mod failing;
mod failover;
mod faults;
mod guard;
mod http2;
mod identity;
mod isolation;
mod outage;
mod outcome_waits;
mod policy;
mod process;
mod scripted_resolver;
pub(crate) mod servers;
mod signing;
mod stopping;
mod tls;
mod unreadable;
pub(crate) mod world;
