//! API keys: their format, their hashes, and who presents them.
//!
//! # Purpose
//! Turn the text of an `X-API-Key` header into a [`Principal`], in less than ten microseconds for a key that is
//! cached, and with at most one Argon2id hash for one that is not.
//!
//! # Operation
//! ```text
//! presented key ── wrong format or checksum: rejected, no look-up
//!       │
//!   key cache, by key id ── same SHA-256: the principal ── other SHA-256: rejected, no hash
//!       │ no entry, or past its TTL
//!   too many invalid keys from this address: rejected, no look-up
//!       │
//!   one check at a time per presented key
//!       │  the key's row ── unknown, expired: rejected, no hash
//!       │  hash unchanged since it was last verified: SHA-256 compared, no hash
//!       │  the salt's check of the secret fails: rejected, no hash
//!       └─ Argon2id in the blocking pool, few at once
//! ```
//! The cache is looked up by key id and compares the SHA-256 of the presented key, rather than being looked up
//! by that SHA-256. So a wrong secret for a key in use is rejected without a hash, and revoking a key removes
//! one entry.
//!
//! A connection that presents the same key again and again keeps it in its [`ConnectionKeyCache`], which saves
//! parsing and the look-up. It is used only while the cache's own entry would be.
//!
//! A [`Principal`] carries everything that requests are checked against: scopes, suspension, limits and the
//! month's count, so that a request looks nothing up. Usage of keys and organisations is counted in atomics
//! and flushed once a minute (`usage.rs`).
//!
//! # Changes
//! A change of a key or an organisation by this process invalidates its cache entries before the response.
//! Changes by other processes are found by polling every `AUTH_POLL_INTERVAL`, and at every notification of
//! the store; a notification may be missed, polling is the guarantee. The database numbers the changes, so the
//! clocks of other processes do not matter.
//!
//! # Failure
//! If the store is unavailable, a key is [`AuthError::Unavailable`], never rejected, and only if this process
//! does not know it: keys that it has verified keep working, as their rows were last read, until the store is
//! back. Keys revoked elsewhere meanwhile are noticed then.
//!
//! A flood of well-formed wrong keys costs one look-up each, and a hash for one in 2^32, so it cannot keep a
//! valid key from its first hash; beyond the first few, an address's wrong keys cost nothing. If more valid
//! keys need a hash than can be computed, they wait, and beyond a bound they are [`AuthError::Busy`].
//!
//! Creating keys makes the server hash, too. These hashes need the same permits, one at a time; beyond a bound
//! they are [`IssueError::Busy`]. A key that would exceed its organisation's quota gets no hash.
//!
//! **Invariant:** no secret is stored, logged or kept in memory longer than its request; the caches hold
//! SHA-256 digests.

mod authenticator;
mod hasher;
mod issue;
mod key;
mod key_cache;
mod metrics;
mod principal;
mod tasks;
mod throttle;
mod usage;

pub use authenticator::{AuthError, Authenticator};
pub use hasher::{HashError, hash_blocking, verify_blocking};
pub use issue::{IssueError, IssuedKey, issue_key};
pub use key::PresentedKey;
pub use key_cache::ConnectionKeyCache;
pub use metrics::{AuthMetrics, CacheLookup};
pub use principal::Principal;
pub use tasks::{flush_usage_periodically, watch_changed_keys};
pub use usage::OrgUsage;
