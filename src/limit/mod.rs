//! Rate limits: how many events, bytes, deliveries, changes and reads a tenant may ask for.
//!
//! # Purpose
//! Keep one tenant from using the others' share, and tell it how much is left. GCRA by `governor`: an
//! organisation with a limit of N per minute may post N at once, and N more spread over the next minute; with
//! a burst, it may post that many at once instead.
//!
//! | limit | of | costs |
//! |---|---|---|
//! | events | an organisation | an event 1, a batch its number of events |
//! | bytes | an organisation with such a limit | the bytes of a body |
//! | deliveries | an organisation | an event the deliveries that it will become |
//! | writes | an organisation; apart, an operator's key | a change by the management API 1 |
//! | reads | an organisation; apart, an operator's key | a list or look-up 1 |
//! | writes and reads of an account | one account of an organisation, in the portal | as writes and reads, of both |
//! | a key's events | a key with such a limit | as events |
//! | a type's events | an event type with such a limit in its organisation | an event of it 1 |
//!
//! # Constraints
//! A check runs on every request and takes less than a microsecond: no lock shared with other tenants, no I/O.
//! A request with several limits takes from all or from none, but for races of concurrent requests.
//! [`ConcurrencyLimiter`] bounds what a caller has in progress, [`FairSemaphore`] what all have. Limits apply per
//! process; sharing them between servers is a later step.
//!
//! # Failure
//! None: a check cannot fail. State is dropped once it has refilled, and beyond a million states.

mod bucket;
mod concurrency;
mod fair_semaphore;
mod local;
mod rate;
mod rate_limiter;

pub use bucket::Bucket;
pub use concurrency::{ConcurrencyLimiter, ConcurrencyPermit, Reader};
pub use fair_semaphore::{FairPermit, FairSemaphore};
pub use rate::{Rate, RateDecision, RateLimitState};
pub use rate_limiter::{Charge, Limit, RateLimiter, Refused};
