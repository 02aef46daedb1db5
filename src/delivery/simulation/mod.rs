//! A deterministic simulation of planning, admission, dispatch, claims and recording: the real admission over a
//! model store, with two servers, slow, hanging, failing, gone and ordered endpoints, requests by hand, crashes, lost answers of
//! commits, outages, copies of events and endpoints that change.
//!
//! It searches for starvation, loss, stuck deliveries, leaks, double storing and attempts at what an endpoint was. A
//! failure names its seed; `HOOKGATE_SIM_SEED=n` repeats it, and `HOOKGATE_SIM_SEEDS=n` tries so many.

mod by_hand;
mod changes;
mod flow;
mod model;
mod numbers;
mod oracle;
mod server;
mod world;

use world::World;

/// Seeds that every test run tries.
const SEEDS: u64 = 20;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn nothing_is_lost_stuck_leaked_or_starved() {
    if let Some(seed) = from_environment("HOOKGATE_SIM_SEED") {
        return World::new(seed).run();
    }
    for seed in 0..from_environment("HOOKGATE_SIM_SEEDS").unwrap_or(SEEDS) {
        let result = std::panic::catch_unwind(|| World::new(seed).run());
        assert!(result.is_ok(), "failed with HOOKGATE_SIM_SEED={seed}");
    }
}
