//! Reads the rows of cached keys again, once they are past their TTL, while the keys are used as they were.
//!
//! A request never waits for that, so a store that is slow or away delays no key that this process knows. A key whose
//! row cannot be read is used for [`AuthConfig::auth_cache_stale_max`](crate::config::AuthConfig) after it was last read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::authenticator::{Authenticator, Inner};
use super::key_cache::VerifiedKey;
use super::refresh_queue::WAITING_MAX;
use super::verification::READS_MAX;
use crate::domain::{ApiKey, ApiKeyId};
use crate::runtime::{Shutdown, Stopwatch};
use crate::store::StoreError;

/// Maximum rows that are read at once: few, since nobody waits for them.
const READS_AT_ONCE: usize = 2;
/// How long a batch may take before it counts as failed.
const BATCH_MAX: Duration = Duration::from_secs(10);
/// The wait after the store could not be read.
const RETRY_WAIT: Duration = Duration::from_secs(1);

/// Reads the rows of keys that are past their TTL, until the soft stop.
pub async fn refresh_stale_keys(authenticator: Authenticator, shutdown: Shutdown) {
    let inner = authenticator.inner();
    let Some(mut keys) = inner.refreshes.take_receiver() else { return };
    let mut batch = Vec::new();
    let mut is_reachable = true;
    loop {
        batch.clear();
        let refresh = async {
            keys.recv_many(&mut batch, WAITING_MAX).await;
            let refreshed = inner.refresh(&batch).await;
            let wait = if refreshed.is_ok() { Duration::ZERO } else { RETRY_WAIT };
            tokio::time::sleep(wait).await;
            refreshed
        };
        let refreshed = tokio::select! {
            () = shutdown.requested() => return,
            refreshed = refresh => refreshed,
        };
        if let Err(error) = &refreshed
            && is_reachable
        {
            tracing::warn!(%error, "cannot read API keys again; those in use keep working for now");
        }
        is_reachable = refreshed.is_ok();
    }
}

impl Inner {
    /// Reads the rows of cached keys again. After the first failure the others are left: their next use asks again.
    async fn refresh(&self, keys: &[ApiKeyId]) -> Result<(), StoreError> {
        let mut known = Vec::new();
        for key in keys {
            known.extend(self.keys.get(*key).map(|verified| (*key, verified)));
        }
        let reads = stream::iter(known).map(|(key, known)| async move {
            let reread = self.reread(key, &known).await;
            known.is_refreshing.store(false, Ordering::Relaxed);
            match reread {
                // One row that cannot be read delays no other key.
                Err(error @ StoreError::Corrupt(_)) => {
                    tracing::warn!(%key, %error, "cannot read an API key again");
                    Ok(())
                }
                reread => reread,
            }
        });
        let reads = reads.buffer_unordered(READS_AT_ONCE).try_collect::<()>();
        let refreshed = timeout(BATCH_MAX, reads).await;
        let refreshed = refreshed.unwrap_or_else(|_| Err(StoreError::no_answer()));
        if refreshed.is_err() {
            self.metrics.hookgate_auth_refresh_failures_total.inc();
            let known = keys.iter().filter_map(|key| self.keys.get(*key));
            known.for_each(|known| known.is_refreshing.store(false, Ordering::Relaxed));
        }
        refreshed
    }

    async fn reread(&self, key: ApiKeyId, known: &VerifiedKey) -> Result<(), StoreError> {
        for _ in 0..READS_MAX {
            let (epoch, read) = (self.keys.epoch(key), Stopwatch::start());
            let record = self.store.system().key(key).await?;
            let is_valid =
                |record: &ApiKey| record.hash == known.hash && record.is_active(self.clock.now());
            let verified = match record.filter(is_valid) {
                Some(record) => self.verified_key(&record, known.digest, epoch, read).await?,
                None => None,
            };
            let Some(verified) = verified else {
                self.keys.invalidate_cached(key);
                return Ok(());
            };
            if self.keys.insert(key, &Arc::new(verified)) {
                return Ok(());
            }
        }
        Ok(())
    }
}
