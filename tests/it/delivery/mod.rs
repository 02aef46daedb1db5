//! Webhooks to real receivers, out of a real store.

mod attempts;
mod guard;
mod isolation;
mod letting_go;
mod outage;
mod stopping;
mod world;
