//! A key that is revoked while a check of it runs, in every order of their steps.

use std::sync::atomic::AtomicI64;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::auth::usage::OrgUsage;
use crate::domain::{EventTypeRates, OrgLimits, Role, Scopes};

const START: Timestamp = Timestamp::from_micros(1_769_860_800_000_000);

fn cache() -> KeyCache {
    KeyCache::new(100, Duration::from_hours(1), Duration::from_hours(1))
}

/// A key whose row had this version when it was read.
fn verified(key_id: ApiKeyId, epoch: Epoch, version: i64) -> Arc<VerifiedKey> {
    let principal = Principal {
        account: None,
        key_id,
        role: Role::Operator,
        scopes: Scopes::TENANT,
        suspended: false,
        limits: OrgLimits::default(),
        event_type_rates: EventTypeRates::default(),
        rate_limit_per_minute: None,
        usage: Arc::<OrgUsage>::default(),
    };
    Arc::new(VerifiedKey {
        digest: KeyDigest::of("text"),
        hash: KeyHash::new("hash".to_owned()),
        read: Stopwatch::start(),
        epoch,
        principal: Arc::new(principal),
        expires_at: Some(Timestamp::from_micros(version)),
        used: Arc::default(),
        is_refreshing: AtomicBool::new(false),
    })
}

fn version_of(found: Option<Arc<VerifiedKey>>) -> Option<i64> {
    found.and_then(|verified| verified.expires_at).map(Timestamp::micros)
}

/// A step of one of several checks, or of the revocation.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A check notes the epoch and reads the row.
    Read(usize),
    /// The check inserts what it read.
    Insert(usize),
    /// The row changes.
    Change,
    /// The change is noticed.
    Notice,
    /// Every key is invalidated, as at the first poll.
    NoticeAll,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_usize).prop_map(Step::Read),
        3 => (0..3_usize).prop_map(Step::Insert),
        2 => Just(Step::Change),
        2 => Just(Step::Notice),
        1 => Just(Step::NoticeAll),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn nothing_read_before_a_noticed_change_is_found_or_inserted(steps in steps()) {
        let (cache, key) = (cache(), ApiKeyId::mint(START));
        let connection = ConnectionKeyCache::default();
        let (mut version, mut noticed) = (0_i64, 0_i64);
        let mut reads: [Option<(Epoch, i64)>; 3] = [None; 3];
        for step in steps {
            match step {
                Step::Read(check) => reads[check] = Some((cache.epoch(key), version)),
                Step::Insert(check) => if let Some((epoch, read)) = reads[check].take() {
                    let is_inserted = cache.insert(key, &verified(key, epoch, read));
                    prop_assert!(!is_inserted || read >= noticed);
                },
                Step::Change => version += 1,
                Step::Notice => {
                    cache.invalidate(key);
                    noticed = version;
                }
                Step::NoticeAll => {
                    cache.invalidate_all();
                    noticed = version;
                }
            }
            let now = Stopwatch::start();
            let on_connection = connection.get(&cache, "text", now);
            for found in [cache.get(key), on_connection] {
                prop_assert!(version_of(found).is_none_or(|found| found >= noticed));
            }
            let epoch = cache.epoch(key);
            if let Some(found) = cache.get(key) {
                connection.insert(found, epoch);
            }
        }
    }
}

#[test]
fn threads_find_nothing_read_before_a_noticed_change() {
    let (cache, key) = (cache(), ApiKeyId::mint(START));
    let (version, noticed) = (AtomicI64::new(0), AtomicI64::new(0));
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !end.load(Ordering::SeqCst) {
                    let epoch = cache.epoch(key);
                    let read = version.load(Ordering::SeqCst);
                    thread::yield_now();
                    cache.insert(key, &verified(key, epoch, read));
                    let least = noticed.load(Ordering::SeqCst);
                    let found = version_of(cache.get(key));
                    assert!(found.is_none_or(|found| found >= least), "{found:?} {least}");
                }
            });
        }
        for change in 1..=2_000 {
            version.store(change, Ordering::SeqCst);
            cache.invalidate(key);
            noticed.store(change, Ordering::SeqCst);
            thread::yield_now();
        }
        end.store(true, Ordering::SeqCst);
    });
}

#[test]
fn unknown_key_disturbs_no_check() {
    let (cache, key) = (cache(), ApiKeyId::mint(START));
    let epoch = cache.epoch(key);
    cache.invalidate_cached(key);
    assert_eq!(cache.epoch(key), epoch);
    assert!(cache.insert(key, &verified(key, epoch, 0)));
    cache.invalidate_cached(key);
    assert!(cache.get(key).is_none() && epoch.is_before(cache.epoch(key)));
}

#[test]
fn entries_with_many_rates_of_event_types_take_the_capacity_of_several() {
    let rates = (0..50).map(|n| (format!("{n}.{}", "x".repeat(60)), Some(1)));
    let rates: Vec<_> = rates.collect();
    let rates = EventTypeRates::parse(rates.iter().map(|(name, rate)| (name.as_str(), *rate)));
    let key = ApiKeyId::mint(START);
    let mut large = Arc::into_inner(verified(key, Epoch::default(), 0)).unwrap();
    assert_eq!(large.bytes(), ENTRY_BYTES);
    let principal = Principal { event_type_rates: rates.unwrap(), ..(*large.principal).clone() };
    large.principal = Arc::new(principal);
    assert!(large.bytes() > 6 * ENTRY_BYTES, "{}", large.bytes());
}
