//! API keys: their form, their hashes, and the answer to "who is asking?".
//!
//! # Purpose
//! Turn the text of an `X-API-Key` header into a [`Principal`], for less than ten microseconds when
//! the key was seen before, and for no more than one Argon2id hash when it was not.
//!
//! # Operation
//! ```text
//! presented key ── form and checksum ── refused: no look-up
//!       │
//!   verified keys, by key id ── same SHA-256: the principal ── other SHA-256: refused, no hash
//!       │ not there, or older than the TTL
//!   too many unknown and wrong keys from this address: refused, no look-up
//!       │
//!   one check at a time for one presented key
//!       │  the key's row ── unknown, expired: refused, no hash
//!       │  hash unchanged since it was last verified: SHA-256 compared, no hash
//!       │  the salt's check of the secret fails: refused, no hash
//!       └─ Argon2id in the blocking pool, a few at once
//! ```
//! The cache is looked up by key id and compared by the SHA-256 of the presented key, rather than
//! looked up by that SHA-256: so a wrong secret for a key in use is refused without a hash, and
//! revoking a key is the removal of one entry.
//!
//! A connection that presents the same key again and again remembers its [`ConnectionKeyCache`]: the entry of
//! the cache, good as long as the entry itself would be, which spares the parsing and the look-up.
//!
//! A [`Principal`] carries all that a request is judged by: scopes, suspension, limits, and the month's
//! count, so that nothing is looked up for a request. What keys and organisations use is noted in
//! words that the principal points at, and written down once a minute (`usage`).
//!
//! # Changes
//! Whoever changes a key or an organisation here makes this process forget it before answering.
//! Other processes' changes are looked for every `AUTH_POLL_INTERVAL`, and at every hint of the
//! store's; a hint may be missed, the looking is the guarantee. Changes are counted by the database:
//! it does not matter what time another process takes it for.
//!
//! # Failure
//! A store that cannot be asked is [`AuthError::Unavailable`], never a refusal, and only for keys
//! that this process does not know: those it has verified go on working, as their rows were last
//! read, until the store is back. What was revoked elsewhere meanwhile is noticed then.
//!
//! A flood of well-formed wrong keys costs a look-up each, and a hash for one in 2^32, so it cannot
//! keep a good key from its first hash; and after the first few an address's wrong keys cost nothing. More good keys at once than can be hashed wait, and beyond a
//! bound are [`AuthError::Busy`].
//!
//! Whoever may make keys makes the server hash, too. Those hashes take the same turns, one of them at
//! a time; beyond a bound they are [`IssueError::Busy`], and who has no room for a key gets no hash.
//!
//! **Invariant:** no secret is stored, logged or kept in memory longer than its request; the caches
//! hold SHA-256 digests.

mod authenticator;
mod hasher;
mod key;
mod throttle;
mod usage;
mod watch;

pub use authenticator::{AuthError, Authenticator, ConnectionKeyCache, Principal};
pub use hasher::{HashError, hash_blocking, verify_blocking};
pub use key::{IssueError, IssuedKey, PresentedKey, issue_key};
pub use usage::{OrgUsage, flush_usage_periodically};
pub use watch::watch_changed_keys;
