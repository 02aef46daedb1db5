//! Usage counters of keys and organisations, kept in memory and flushed to the store once a minute.
//!
//! A request updates a few atomics that it reaches through its verified key: nothing is looked up. So the last
//! use of a key is known to the minute, and a month's events except for what other servers accepted in the
//! last minute. Usage since the last flush is lost if the process is killed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{ApiKeyId, Month, OrgId, Timestamp};
use crate::store::{Store, StoreError};

/// Maximum keys or organisations per statement.
const ROWS_MAX: usize = 5_000;
const MINUTE_MICROS: i64 = 60_000_000;

/// The events of one organisation in the current month.
#[derive(Debug, Default)]
pub struct OrgUsage {
    /// Events of all servers, as far as this one knows.
    total: AtomicU64,
    /// Events that are not flushed yet.
    added: AtomicU64,
}

/// The counters of this process. A counter is kept while a verified key refers to it and until it is flushed,
/// so their number is bounded by the key cache.
#[derive(Debug)]
pub(super) struct UsageTracker {
    keys: Mutex<HashMap<ApiKeyId, Arc<AtomicBool>>>,
    orgs: Mutex<HashMap<OrgId, Arc<OrgUsage>>>,
    month: Mutex<Month>,
}

impl OrgUsage {
    /// How many more events are within a monthly quota.
    pub fn left(&self, quota: u32) -> u32 {
        quota.saturating_sub(u32::try_from(self.events()).unwrap_or(u32::MAX))
    }

    /// Counts accepted events.
    pub fn add(&self, events: u64) {
        self.total.fetch_add(events, Ordering::Relaxed);
        self.added.fetch_add(events, Ordering::Relaxed);
    }

    /// Events of the current month.
    pub fn events(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Merges the stored count. Never lowers the total: a flush may be in flight.
    fn merge(&self, stored: u64) {
        let total = stored.saturating_add(self.added.load(Ordering::Relaxed));
        self.total.fetch_max(total, Ordering::Relaxed);
    }
}

impl UsageTracker {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { keys: Mutex::default(), orgs: Mutex::default(), month: Mutex::new(Month::of(now)) }
    }

    /// The flag that marks a key as used.
    pub(super) fn key(&self, key: ApiKeyId) -> Arc<AtomicBool> {
        Arc::clone(lock(&self.keys).entry(key).or_default())
    }

    /// The counter of an organisation, merged with the stored count.
    pub(super) async fn org(&self, org: OrgId, store: &Store) -> Result<Arc<OrgUsage>, StoreError> {
        let month = *lock(&self.month);
        let stored = store.month_events(org, month).await?;
        let usage = Arc::clone(lock(&self.orgs).entry(org).or_default());
        if *lock(&self.month) == month {
            usage.merge(stored);
        }
        Ok(usage)
    }

    /// Flushes the counters to the store. After an error they are kept for the next flush.
    pub(super) async fn flush(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let keys = self.flush_keys(store, now).await;
        self.flush_orgs(store, now).await?;
        keys
    }

    async fn flush_keys(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let used = take(&self.keys, |used| used.swap(false, Ordering::Relaxed));
        let micros = now.micros();
        let minute = Timestamp::from_micros(micros - micros.rem_euclid(MINUTE_MICROS));
        for (chunk, keys) in used.chunks(ROWS_MAX).enumerate() {
            let ids: Vec<ApiKeyId> = keys.iter().map(|(id, _)| *id).collect();
            if let Err(error) = store.system().touch_keys(&ids, minute).await {
                let unflushed = used.iter().skip(chunk * ROWS_MAX);
                unflushed.for_each(|(_, flag)| flag.store(true, Ordering::Relaxed));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn flush_orgs(&self, store: &Store, now: Timestamp) -> Result<(), StoreError> {
        let month = *lock(&self.month);
        let is_used = |usage: &OrgUsage| usage.added.load(Ordering::Relaxed) > 0;
        let used = take(&self.orgs, is_used);
        for orgs in used.chunks(ROWS_MAX) {
            let added: Vec<(OrgId, u64)> = orgs
                .iter()
                .map(|(org, usage)| (*org, usage.added.swap(0, Ordering::Relaxed)))
                .collect();
            match store.system().add_month_events(month, &added).await {
                Ok(stored) => {
                    let stored: HashMap<OrgId, u64> = stored.into_iter().collect();
                    for (org, usage) in orgs {
                        usage.merge(stored.get(org).copied().unwrap_or(0));
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
        self.begin_month(Month::of(now));
        Ok(())
    }

    /// Begins a month, once the previous one is flushed.
    fn begin_month(&self, month: Month) {
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

/// The counters for which `is_used` holds. Others to which no verified key refers are dropped.
fn take<K: Copy + Eq + Hash, V>(
    counters: &Mutex<HashMap<K, Arc<V>>>,
    is_used: impl Fn(&V) -> bool,
) -> Vec<(K, Arc<V>)> {
    let mut used = Vec::new();
    lock(counters).retain(|key, counter| {
        let is_used = is_used(counter);
        if is_used {
            used.push((*key, Arc::clone(counter)));
        }
        is_used || Arc::strong_count(counter) > 1
    });
    used
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
