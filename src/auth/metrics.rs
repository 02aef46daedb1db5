//! Metrics of authentication.

use crate::telemetry::{Counter, CounterBy, label, metrics};

metrics! {
    /// Metrics of authentication.
    pub struct AuthMetrics {
        /// Argon2id hashes computed to verify and to create API keys. A process verifies a valid key
        /// about once.
        auth_hashes_total: Counter,
        /// Attempts to read cached API keys again after their TTL that failed, because the store was away.
        hookgate_auth_refresh_failures_total: Counter,
        /// Look-ups in the cache of verified API keys.
        @core cache_lookups_total: CounterBy<CacheLookup>,
    }
}

label! {
    /// The result of a look-up in the key cache.
    pub enum CacheLookup by "result" {
        /// The cache had the key.
        Hit = "hit",
        /// The store was asked.
        Miss = "miss",
    }
}
