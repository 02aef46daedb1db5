//! Webhooks to real receivers, out of a real store.

mod attempts;
mod breaker;
mod connections;
mod failing;
mod faults;
mod guard;
mod isolation;
mod letting_go;
mod names;
mod outage;
mod pacing;
mod paused;
mod process;
mod servers;
mod signing;
mod stopping;
mod tls;
mod world;
