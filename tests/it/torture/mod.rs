//! Torture tests: every acknowledged event is stored exactly once, through kills, stops, locks, full disks and
//! damage, and delivered.
//!
//! Everything is real: the binary, SQLite files, PostgreSQL servers, `kill -9`. Clients note every
//! `202` in a [`ledger`]; at the end of a test the ledger is held against the rows of the database,
//! read past the server. What is random comes from a seed that is printed: `TORTURE_SEED` sets it.
//! The order in which the machine runs things stays its own, so a seed repeats the plan and not
//! the moment.
//!
//! `TORTURE_ROUNDS` is the one knob: a few rounds within `cargo test`, 300 in `make torture`.

#![expect(clippy::print_stdout, reason = "these tests report figures")]

mod consumer;
mod crash;
mod damage;
mod database;
mod deliveries;
mod disk;
mod ledger;
mod load;
mod memory;
mod outage;
mod poison;
mod power;
mod replays;
mod restart;
mod retries;
mod rollups;
mod stall;
mod station;
mod system_packages;
mod wire;

use std::time::Duration;

/// The length of a run, derived from the number of rounds.
#[derive(Clone, Copy)]
struct Scale {
    rounds: u32,
}

impl Scale {
    fn read() -> Self {
        let rounds = std::env::var("TORTURE_ROUNDS").ok();
        Self { rounds: rounds.map_or(5, |rounds| rounds.parse().unwrap()) }
    }

    /// Times that a server is killed.
    fn kills(self) -> u32 {
        self.rounds
    }

    /// Times that a server is stopped and started again.
    fn restarts(self) -> u32 {
        (self.rounds / 2).clamp(3, 50)
    }

    /// The duration of one store outage.
    fn outage(self) -> Duration {
        (Duration::from_millis(100) * self.rounds)
            .clamp(Duration::from_secs(2), Duration::from_secs(30))
    }

    /// Events posted during a store outage.
    fn backlog(self) -> u64 {
        (u64::from(self.rounds) * 10_000).clamp(50_000, 1_000_000)
    }
}

/// Random numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    /// The seed of this run, printed with the name of the test that draws from it.
    fn new(test: &str) -> Self {
        let given = std::env::var("TORTURE_SEED").ok();
        let seed = given.map_or_else(|| getrandom::u64().unwrap(), |seed| seed.parse().unwrap());
        println!("{test}: TORTURE_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A number up to 2^`bits`, small ones as likely as large ones.
    fn of_any_size(&mut self, bits: u64) -> u64 {
        let bits = self.below(bits + 1);
        1 + self.below(1 << bits)
    }

    /// An independent generator, for a concurrent user.
    fn split(&mut self) -> Self {
        Self(self.next())
    }
}
