//! Cache of account summaries, with single flight.
//!
//! A summary is kept until the end of its minute: of a minute that begins at another second for each account, so that
//! they do not all end at once. It is kept as it is sent, so that its tag is that of its bytes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use moka::future::Cache;
use sha2::{Digest, Sha256};

use crate::domain::{MinuteSpan, OrgId};
use crate::runtime::Clock;

/// Bytes of summaries that are kept.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What an entry takes beside its body and its account.
const ENTRY_BYTES: usize = 256;
/// How long a summary is kept at most, in seconds.
const KEPT_SECONDS: u64 = 60;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SummaryKey {
    /// Whose account.
    pub org: OrgId,
    /// The account.
    pub account_id: String,
    /// The window, if it is not one that ends now.
    pub span: Option<MinuteSpan>,
    /// The length of a window that ends now.
    pub length: Option<Duration>,
    /// Users that are listed at most.
    pub top: u32,
}

/// A summary as it is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptSummary {
    /// Its JSON.
    pub body: Bytes,
    /// Its entity tag, RFC 9110 section 8.8.3, in quotes.
    pub etag: String,
    /// For how many more seconds it is kept.
    pub fresh_seconds: u64,
}

/// The cache. Clones share it.
#[derive(Clone, Debug)]
pub struct SummaryCache {
    /// By what is asked for and the minute.
    kept: Cache<(SummaryKey, u64), (Bytes, Arc<str>)>,
    clock: Clock,
}

impl SummaryCache {
    /// An empty cache.
    pub fn new(clock: Clock) -> Self {
        let weight = |(key, _): &(SummaryKey, u64), (body, _): &(Bytes, Arc<str>)| {
            let bytes = ENTRY_BYTES + key.account_id.len() + body.len();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder()
            .max_capacity(BYTES_MAX)
            .weigher(weight)
            .time_to_live(Duration::from_secs(KEPT_SECONDS))
            .build();
        Self { kept, clock }
    }

    /// The summary that is kept, or else the one that `read` makes: once, however many ask for it at a time.
    ///
    /// # Errors
    /// When `read` fails. That is not kept.
    pub async fn get<E: Send + Sync + 'static>(
        &self,
        key: SummaryKey,
        read: impl Future<Output = Result<Vec<u8>, E>> + Send,
    ) -> Result<KeptSummary, Arc<E>> {
        let (minute, fresh_seconds) = self.minute_of(&key);
        let keep = async {
            let body = Bytes::from(read.await?);
            let etag = etag(&body);
            Ok((body, etag))
        };
        let (body, etag) = self.kept.try_get_with((key, minute), keep).await?;
        Ok(KeptSummary { body, etag: etag.to_string(), fresh_seconds })
    }

    /// The number of the minute of a summary, and how many seconds it has left.
    fn minute_of(&self, key: &SummaryKey) -> (u64, u64) {
        let mut hasher = DefaultHasher::new();
        (key.org, &key.account_id).hash(&mut hasher);
        let offset = hasher.finish() % KEPT_SECONDS;
        let micros = self.clock.monotonic().micros();
        let seconds = u64::try_from(micros).unwrap_or(0) / 1_000_000 + offset;
        (seconds / KEPT_SECONDS, KEPT_SECONDS - seconds % KEPT_SECONDS)
    }
}

/// The entity tag of a body: a hash of its bytes.
fn etag(body: &[u8]) -> Arc<str> {
    let digest = Sha256::digest(body);
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest[..16])).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::domain::Timestamp;

    fn key(account_id: &str) -> SummaryKey {
        let org = OrgId::FIRST;
        let length = Some(Duration::from_hours(24));
        SummaryKey { org, account_id: account_id.to_owned(), span: None, length, top: 10 }
    }

    #[tokio::test]
    async fn many_who_ask_at_a_time_get_one_answer_for_a_minute() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let cache = SummaryCache::new(clock.clone());
        let reads = Arc::new(AtomicU32::new(0));
        let ask = || {
            let reads = Arc::clone(&reads);
            cache.get(key("a"), async move {
                tokio::task::yield_now().await;
                let number = reads.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ()>(number.to_string().into_bytes())
            })
        };
        let (one, other) = tokio::join!(ask(), ask());
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.clone(), one.body.as_ref()), (other, b"0".as_slice()));
        assert!((1..=KEPT_SECONDS).contains(&one.fresh_seconds));
        clock.advance(Duration::from_secs(one.fresh_seconds - 1));
        assert_eq!(ask().await.unwrap().fresh_seconds, 1);
        clock.advance(Duration::from_secs(1));
        let next = ask().await.unwrap();
        assert_eq!((next.body.as_ref(), next.fresh_seconds), (b"1".as_slice(), KEPT_SECONDS));
        assert_ne!(next.etag, one.etag);
    }

    #[tokio::test]
    async fn failure_is_not_kept() {
        let cache = SummaryCache::new(Clock::manual(Timestamp::from_micros(0)));
        let failed = cache.get(key("a"), async { Err::<Vec<u8>, _>("away") }).await;
        assert_eq!(*failed.unwrap_err(), "away");
        let read = cache.get(key("a"), async { Ok::<_, &str>(b"x".to_vec()) }).await.unwrap();
        assert!(read.etag.starts_with('"') && read.etag.len() == 24, "{}", read.etag);
    }
}
