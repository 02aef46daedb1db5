//! Rate limits: how many events an organisation may send.
//!
//! # Purpose
//! Keep one tenant from taking the others' share, and tell it how much is left before it hits the
//! wall. GCRA by `governor`: an organisation with a limit of N a minute may send N at once, and N
//! more spread over the next minute; with a burst of its own, it may send that many at once instead. A
//! batch costs its length. Bytes are limited besides, for organisations that have such a limit.
//!
//! # Constraints
//! A check is asked for on every request and stays below a microsecond: no lock that other tenants
//! hold, no I/O. Limits hold for one process; instances that share them are a later step.
//!
//! # Failure
//! None: a check cannot fail. State is forgotten after two idle minutes, when GCRA has refilled it
//! anyway, and at [`LIMITERS_MAX`] organisations.

mod local;

pub use local::{OrgRate, RateDecision, RateLimitState, RateLimiter};
