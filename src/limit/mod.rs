//! Rate limits: how many events and bytes an organisation may post.
//!
//! # Purpose
//! Keep one tenant from using the others' share, and tell it how much is left. GCRA by `governor`: an
//! organisation with a limit of N per minute may post N at once, and N more spread over the next minute; with
//! a burst, it may post that many at once instead. A batch costs its number of events. Organisations with a
//! limit in bytes are limited by both.
//!
//! # Constraints
//! A check runs on every request and takes less than a microsecond: no lock shared with other tenants, no I/O.
//! Limits apply per process; sharing them between servers is a later step.
//!
//! # Failure
//! None: a check cannot fail. State is dropped after two idle minutes, when it has refilled anyway, and beyond
//! a million organisations.

mod local;

pub use local::{OrgRate, RateDecision, RateLimitState, RateLimiter};
