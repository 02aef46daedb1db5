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
//!   key cache, by key id ── same SHA-256: the principal ── past its TTL: its row is read again behind the request
//!       │             └── other SHA-256: rejected, no hash, counted
//!       │ no entry
//!   too many invalid keys from this address: rejected, no look-up
//!       │
//!   one check at a time per presented key
//!       │  the key's row ── unknown, expired: rejected, no hash
//!       │  hash unchanged since it was last verified: SHA-256 compared, no hash
//!       │  the salt's check of the secret fails: rejected, no hash
//!       └─ Argon2id in the blocking pool, few at once; organisations take turns
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
//! back, or for `AUTH_CACHE_STALE_MAX` at most. No request of theirs waits for the store (`refresh.rs`). Keys
//! revoked elsewhere meanwhile are noticed when the store is back. While it is there, a key past its TTL is used
//! until its row was read again, which takes as long as the store; its revocation does not wait for that, since the
//! watch ends it.
//!
//! A flood of well-formed wrong keys costs one look-up each, few at once, and a hash for one in 2^32, so it cannot
//! keep a valid key from its first hash; beyond the first few, an address's wrong keys cost nothing. If more valid
//! keys need a hash than can be computed, they wait, and beyond a bound they are [`AuthError::Busy`].
//!
//! Creating keys makes the server hash, too. Verifications, issued keys and operators take turns, and so do
//! organisations within them (`hash_queue.rs`): one that makes or verifies many keys delays the others by one hash
//! each. Beyond a bound keys are [`IssueError::Busy`]. A key that would exceed its organisation's quota gets no hash.
//!
//! # Sessions
//! The console presents the token of a session instead of a key (`session.rs`). A session ends with its key.
//!
//! **Invariant:** no secret is stored, logged or kept in memory longer than its request; the caches hold
//! SHA-256 digests.

mod authenticator;
mod hash_queue;
mod hasher;
mod issue;
mod key;
mod key_cache;
mod metrics;
mod principal;
mod refresh;
mod refresh_queue;
mod session;
mod session_use;
mod tasks;
mod throttle;
mod usage;
mod verification;

pub use authenticator::{AuthError, Authenticator};
pub use hasher::{HashError, hash_blocking, verify_blocking};
pub use issue::{IssueError, IssuedKey, adopt_key, issue_key};
pub use key::{MalformedKey, PresentedKey};
pub use key_cache::ConnectionKeyCache;
pub use metrics::{AuthMetrics, CacheLookup};
pub use principal::Principal;
pub use refresh::refresh_stale_keys;
pub use session::{OpenSession, OpenedLink, SessionToken, new_link, new_portal_link};
pub use session_use::LinkLooks;
pub use tasks::{flush_usage_periodically, watch_changed_keys};
pub use usage::OrgUsage;
