//! Ledger of acknowledged events, compared with the stored ones.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;
use uuid::Uuid;

use super::database::StoredEvent;
use super::station::PATIENCE;

/// What all clients record. Every event has a number, which its payload carries.
pub(super) struct Ledger {
    next: AtomicU64,
    /// Numbers of acknowledged events, and the ids they were given.
    acknowledged: Mutex<HashMap<u64, Uuid>>,
    /// Numbers that are posted again and again under one `dedup_id`.
    named: Mutex<Vec<u64>>,
    /// Acknowledged numbers without a `dedup_id`.
    unnamed: Mutex<Vec<u64>>,
    /// Numbers whose erasure was asked for, and whether that was answered.
    erased: Mutex<HashMap<u64, bool>>,
    /// Requests that were answered with 202.
    accepted: watch::Sender<u64>,
    /// Requests that were refused.
    refused: watch::Sender<u64>,
    /// Answers that no client may get, and answers that were lost.
    failure: watch::Sender<Option<String>>,
}

/// The comparison of the ledger with the stored events.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// Events acknowledged with 202.
    pub(super) acknowledged: usize,
    /// Rows.
    pub(super) stored: usize,
    /// Acknowledged events without a row of their id and their content.
    pub(super) lost: usize,
    /// Rows beyond the first of one event.
    pub(super) duplicated: usize,
    /// Stored events whose erasure was answered with 202.
    pub(super) erased: usize,
    /// Stored events whose 202 was lost when the server died.
    pub(super) unacknowledged: usize,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            next: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            named: Mutex::default(),
            unnamed: Mutex::default(),
            erased: Mutex::default(),
            accepted: watch::Sender::new(0),
            refused: watch::Sender::new(0),
            failure: watch::Sender::new(None),
        }
    }

    /// Numbers for new events.
    pub(super) fn number(&self, count: u64) -> Range<u64> {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        first..first + count
    }

    /// Numbers for new events that have a `dedup_id`.
    pub(super) fn number_named(&self, count: u64) -> Range<u64> {
        let numbers = self.number(count);
        self.named.lock().unwrap().extend(numbers.clone());
        numbers
    }

    /// One of the numbers that have a `dedup_id`, whether it is in flight, answered or stored.
    pub(super) fn any_named(&self, draw: u64) -> Option<u64> {
        let named = self.named.lock().unwrap();
        let place = usize::try_from(draw).unwrap().checked_rem(named.len())?;
        Some(named[place])
    }

    /// Records a 202.
    pub(super) fn accept(&self, numbers: Range<u64>, is_named: bool, ids: &[Uuid]) {
        let unnamed = numbers.clone();
        assert_eq!(ids.len() as u64, numbers.end - numbers.start);
        let mut acknowledged = self.acknowledged.lock().unwrap();
        for (number, id) in numbers.zip(ids) {
            let first = acknowledged.entry(number).or_insert(*id);
            assert_eq!(first, id, "event {number} was answered with two ids");
        }
        drop(acknowledged);
        if !is_named {
            self.unnamed.lock().unwrap().extend(unnamed);
        }
        self.accepted.send_modify(|count| *count += 1);
    }

    /// An acknowledged event without a `dedup_id`, which nobody posts again.
    pub(super) fn any_acknowledged(&self, draw: u64) -> Option<(u64, Uuid)> {
        let unnamed = self.unnamed.lock().unwrap();
        let place = usize::try_from(draw).unwrap().checked_rem(unnamed.len())?;
        Some((unnamed[place], self.id_of(unnamed[place])))
    }

    /// Records an erasure that was asked for, or answered.
    pub(super) fn erase(&self, number: u64, is_answered: bool) {
        *self.erased.lock().unwrap().entry(number).or_default() |= is_answered;
    }

    /// How many erasures were asked for, and how many of them were answered.
    pub(super) fn erasures(&self) -> (u64, u64) {
        let erased = self.erased.lock().unwrap();
        let answered = erased.values().filter(|is_answered| **is_answered).count();
        (erased.len() as u64, answered as u64)
    }

    /// Records a refusal.
    pub(super) fn refuse(&self) {
        self.refused.send_modify(|count| *count += 1);
    }

    /// Records a failure, which every waiter for the ledger reports.
    pub(super) fn fail(&self, how: String) {
        self.failure.send_replace(Some(how));
    }

    /// Requests that were refused so far.
    pub(super) fn refusals(&self) -> u64 {
        *self.refused.borrow()
    }

    /// Waits until so many more requests have been answered with 202.
    pub(super) async fn accepted(&self, more: u64) {
        self.wait_for(&self.accepted, more, "accepted").await;
    }

    /// Waits until so many more requests have been refused.
    pub(super) async fn refused(&self, more: u64) {
        self.wait_for(&self.refused, more, "refused").await;
    }

    async fn wait_for(&self, count: &watch::Sender<u64>, more: u64, what: &str) {
        let target = *count.borrow() + more;
        let (mut count, mut failure) = (count.subscribe(), self.failure.subscribe());
        tokio::select! {
            _ = count.wait_for(|count| *count >= target) => {}
            _ = failure.wait_for(Option::is_some) => self.assert_no_failure(),
            () = tokio::time::sleep(PATIENCE) => panic!("{more} more requests were not {what}"),
        }
    }

    fn assert_no_failure(&self) {
        let failure = self.failure.borrow().clone();
        assert_eq!(failure, None, "a client met what it must not meet");
    }

    /// The id that an acknowledged event was given.
    pub(super) fn id_of(&self, number: u64) -> Uuid {
        self.acknowledged.lock().unwrap()[&number]
    }

    /// The numbers of acknowledged events without a row of their id and their content.
    pub(super) fn missing(&self, stored: &[StoredEvent]) -> Vec<u64> {
        let by_number: HashMap<u64, Uuid> =
            stored.iter().map(|event| (event.number, event.id)).collect();
        let acknowledged = self.acknowledged.lock().unwrap();
        let erased = self.erased.lock().unwrap();
        let lost = acknowledged.iter().filter(|(number, id)| {
            by_number.get(number) != Some(*id) && !erased.contains_key(number)
        });
        lost.map(|(number, _)| *number).collect()
    }

    /// Compares the ledger with the rows.
    pub(super) fn settle(&self, stored: &[StoredEvent]) -> Verdict {
        self.assert_no_failure();
        let lost = self.missing(stored).len();
        let erased = self.erased.lock().unwrap();
        let is_erased = |number: &u64| erased.get(number) == Some(&true);
        let erased = stored.iter().filter(|event| is_erased(&event.number)).count();
        let mut rows: HashMap<u64, usize> = HashMap::new();
        for event in stored {
            *rows.entry(event.number).or_default() += 1;
        }
        let mut ids: Vec<Uuid> = stored.iter().map(|event| event.id).collect();
        ids.sort_unstable();
        ids.dedup();
        // Two rows of one id are two rows of one number, unless contents were mixed up.
        let distinct = ids.len().min(rows.len());
        let acknowledged = self.acknowledged.lock().unwrap();
        Verdict {
            acknowledged: acknowledged.len(),
            stored: stored.len(),
            lost,
            duplicated: stored.len() - distinct,
            erased,
            unacknowledged: rows
                .keys()
                .filter(|number| !acknowledged.contains_key(*number))
                .count(),
        }
    }
}

impl Verdict {
    /// Prints the figures, then fails if something was lost or is there twice.
    pub(super) fn report(&self, test: &str) {
        println!("{test}: {self}");
        assert_eq!((self.lost, self.duplicated, self.erased), (0, 0, 0), "{test}: {self}");
        assert!(self.acknowledged > 0, "{test}: nothing was acknowledged");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, stored, lost, duplicated, erased: _, unacknowledged } = self;
        write!(
            f,
            "acknowledged {acknowledged}, stored {stored}, lost {lost}, duplicated {duplicated} \
             (stored but unacknowledged {unacknowledged})"
        )
    }
}
