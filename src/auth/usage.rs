//! What keys and organisations use, noted in memory and written down once a minute.
//!
//! A request costs a few atomic words, which it finds with its verified key: nothing is looked up. So
//! last uses are known to the minute, and a month's events to what other instances took in during
//! the last minute; what was noted since the last time is lost with a process that is killed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Authenticator;
use crate::domain::{ApiKeyId, Month, OrgId, Timestamp};
use crate::runtime::{Clock, Shutdown};
use crate::store::{Store, StoreError};

/// The time between two writings.
const INTERVAL: Duration = Duration::from_mins(1);
/// Keys, or organisations, in one statement at most.
const ROWS_MAX: usize = 5_000;
const MINUTE_MICROS: i64 = 60_000_000;

/// The events of one organisation in this month.
#[derive(Debug, Default)]
pub struct OrgUsage {
    /// Of all instances, as far as this one knows.
    total: AtomicU64,
    /// Not yet written down.
    added: AtomicU64,
}

/// The notes of this process. They are kept for keys and organisations that somebody holds on to, and
/// until they are written down, so they are bounded by the cache of verified keys.
#[derive(Debug)]
pub(super) struct Ledger {
    keys: Mutex<HashMap<ApiKeyId, Arc<AtomicBool>>>,
    orgs: Mutex<HashMap<OrgId, Arc<OrgUsage>>>,
    month: Mutex<Month>,
}

impl OrgUsage {
    /// How many more events stay within a month's quota.
    pub fn left(&self, quota: u32) -> u32 {
        quota.saturating_sub(u32::try_from(self.events()).unwrap_or(u32::MAX))
    }

    /// Notes events that were accepted.
    pub fn add(&self, events: u64) {
        self.total.fetch_add(events, Ordering::Relaxed);
        self.added.fetch_add(events, Ordering::Relaxed);
    }

    /// Events of this month.
    pub fn events(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Learns what is written down. Never less than was known: a writing may be in flight.
    fn learn(&self, written: u64) {
        let total = written.saturating_add(self.added.load(Ordering::Relaxed));
        self.total.fetch_max(total, Ordering::Relaxed);
    }
}

impl Ledger {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { keys: Mutex::default(), orgs: Mutex::default(), month: Mutex::new(Month::of(now)) }
    }

    /// Where the use of a key is noted.
    pub(super) fn key(&self, key: ApiKeyId) -> Arc<AtomicBool> {
        Arc::clone(lock(&self.keys).entry(key).or_default())
    }

    /// Where the events of an organisation are noted, with what is written down of them.
    pub(super) async fn org(&self, org: OrgId, store: &Store) -> Result<Arc<OrgUsage>, StoreError> {
        let month = *lock(&self.month);
        let written = store.month_events(org, month).await?;
        let usage = Arc::clone(lock(&self.orgs).entry(org).or_default());
        if *lock(&self.month) == month {
            usage.learn(written);
        }
        Ok(usage)
    }

    /// Writes down what was noted. What cannot be written stays noted.
    pub(super) async fn write(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let keys = self.write_keys(store, now).await;
        self.write_orgs(store, now).await?;
        keys
    }

    async fn write_keys(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let used = take(&self.keys, |used| used.swap(false, Ordering::Relaxed));
        let micros = now.micros();
        let minute = Timestamp::from_micros(micros - micros.rem_euclid(MINUTE_MICROS));
        for (place, keys) in used.chunks(ROWS_MAX).enumerate() {
            let ids: Vec<ApiKeyId> = keys.iter().map(|(id, _)| *id).collect();
            if let Err(error) = store.touch_keys_across_orgs(&ids, minute).await {
                let unwritten = used.iter().skip(place * ROWS_MAX);
                unwritten.for_each(|(_, note)| note.store(true, Ordering::Relaxed));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn write_orgs(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let month = *lock(&self.month);
        let is_used = |usage: &OrgUsage| usage.added.load(Ordering::Relaxed) > 0;
        let used = take(&self.orgs, is_used);
        for orgs in used.chunks(ROWS_MAX) {
            let added: Vec<(OrgId, u64)> = orgs
                .iter()
                .map(|(org, usage)| (*org, usage.added.swap(0, Ordering::Relaxed)))
                .collect();
            match store.add_month_events_across_orgs(month, &added).await {
                Ok(written) => {
                    let written: HashMap<OrgId, u64> = written.into_iter().collect();
                    for (org, usage) in orgs {
                        usage.learn(written.get(org).copied().unwrap_or(0));
                    }
                }
                Err(error) => {
                    for ((_, usage), (_, events)) in orgs.iter().zip(added) {
                        usage.added.fetch_add(events, Ordering::Relaxed);
                    }
                    return Err(error);
                }
            }
        }
        self.turn_to(Month::of(now));
        Ok(())
    }

    /// Begins a new month, once the old one is written down.
    fn turn_to(&self, month: Month) {
        let mut current = lock(&self.month);
        if *current == month {
            return;
        }
        *current = month;
        for usage in lock(&self.orgs).values() {
            usage.total.store(usage.added.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// The notes that `is_used` picks; others that nobody holds on to are forgotten.
fn take<K: Copy + Eq + Hash, V>(
    notes: &Mutex<HashMap<K, Arc<V>>>,
    is_used: impl Fn(&V) -> bool,
) -> Vec<(K, Arc<V>)> {
    let mut used = Vec::new();
    lock(notes).retain(|key, note| {
        let is_used = is_used(note);
        if is_used {
            used.push((*key, Arc::clone(note)));
        }
        is_used || Arc::strong_count(note) > 1
    });
    used
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes down what is used, every minute and at the end of a month, until the soft stop. What is
/// noted after that is written by whoever stops the process.
pub async fn flush_usage_periodically(
    authenticator: Authenticator,
    clock: Clock,
    shutdown: Shutdown,
) {
    loop {
        let now = clock.now();
        let wait = INTERVAL.min(Month::end(now).since(now)).max(Duration::from_millis(1));
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if let Err(error) = authenticator.flush_usage().await {
            tracing::warn!(%error, "what was used cannot be written down; it is tried again");
        }
    }
}
