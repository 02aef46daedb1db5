//! Webhooks to real receivers, out of a real store.

mod attempts;
mod breaker;
mod failing;
mod guard;
mod isolation;
mod letting_go;
mod outage;
mod pacing;
mod stopping;
mod world;
