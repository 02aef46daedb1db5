//! The shares of organisations in the append queue and in the journal, by dynamic thresholds (Choudhury and Hahne,
//! IEEE/ACM Transactions on Networking 6(2), 1998): how much an organisation may hold depends on what is still free.
//!
//! A lone organisation gets four fifths of everything. However many come, something is left for the next, and the one
//! that holds nothing always gets in while there is space. So an organisation whose events cannot be stored, or that
//! sends faster than the disk syncs, is refused while others go on.
//!
//! Bytes count from the append until the checkpoint may pass them. Whose record it is tells the function that
//! [`JournalOptions`](super::JournalOptions) has; records without an owner have no limit but the total.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::RecordOwner;
use crate::domain::OrgId;

/// An organisation may hold this multiple of what is then free.
const ORG_SHARE: u64 = 4;

/// Bytes of frames, by organisation.
pub(super) type OrgBytes = HashMap<OrgId, u64>;

/// Bytes that the segments on disk have left for frames, as far as known. Written under the lock of the segments.
#[derive(Clone, Default)]
pub(super) struct FreeBytes(Arc<AtomicU64>);

/// What each organisation holds.
pub(super) struct Shares {
    owner: RecordOwner,
    free: FreeBytes,
    /// One entry for each organisation with bytes that are not stored.
    orgs: HashMap<OrgId, OrgHeld>,
    unstored: u64,
    /// The number of the group of appends that is being filled; the one before it may be being written.
    group: u64,
}

/// What one organisation holds.
#[derive(Debug, Default)]
struct OrgHeld {
    /// Bytes that are not stored.
    unstored: u64,
    /// What waits in the append queue: in `group`, and in the group before it.
    waiting: [QueuedAppends; 2],
    group: u64,
    /// The value of `unstored` when the last append was refused for it; 0 once it has halved.
    refused_at: u64,
}

/// Appends that wait for a sync.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueuedAppends {
    pub(super) appends: u64,
    pub(super) bytes: u64,
}

/// What an organisation has no more of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ShareUsedUp {
    /// Its share of the append queue.
    Queue,
    /// Its share of the journal.
    Journal {
        /// Whether this is the first refusal of an episode, which is to be logged.
        is_first: bool,
    },
}

impl FreeBytes {
    pub(super) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Shares {
    /// The shares of organisations that hold these bytes already.
    pub(super) fn new(owner: RecordOwner, held: OrgBytes, free: FreeBytes) -> Self {
        let unstored = held.values().sum();
        let entry = |(org, unstored)| (org, OrgHeld { unstored, ..OrgHeld::default() });
        let orgs = held.into_iter().map(entry).collect();
        // Groups are counted from 2, so that no entry seems to have been in the group before the first one.
        Self { owner, free, orgs, unstored, group: 2 }
    }

    /// Whose record this is.
    pub(super) fn owner(&self) -> RecordOwner {
        self.owner
    }

    /// Bytes of records with an owner that are not stored.
    pub(super) const fn unstored(&self) -> u64 {
        self.unstored
    }

    /// Takes a frame into an organisation's shares. `waiting` is what waits in the queue, of everybody, and `free` what
    /// the queue has left.
    pub(super) fn take(
        &mut self,
        org: OrgId,
        frame_bytes: u64,
        waiting: QueuedAppends,
        free: QueuedAppends,
    ) -> Result<(), ShareUsedUp> {
        let group = self.group;
        let held = self.orgs.entry(org).or_default();
        held.enter(group);
        let own = held.waiting();
        let fits_queue =
            may_hold(own.appends, 1, free.appends) && may_hold(own.bytes, frame_bytes, free.bytes);
        let free_on_disk = self.free.get().saturating_sub(waiting.bytes);
        let used_up = if !may_hold(held.unstored, frame_bytes, free_on_disk) {
            let is_first = held.refused_at == 0;
            held.refused_at = held.unstored;
            ShareUsedUp::Journal { is_first }
        } else if waiting.appends > 0 && !fits_queue {
            ShareUsedUp::Queue
        } else {
            held.add(frame_bytes);
            self.unstored += frame_bytes;
            return Ok(());
        };
        self.forget_if_empty(org);
        Err(used_up)
    }

    /// Begins the next group: the last one is being written, and the one before it is done.
    pub(super) const fn begin_group(&mut self) {
        self.group += 1;
    }

    /// Gives back bytes that are stored.
    pub(super) fn give_back(&mut self, bytes: &OrgBytes) {
        for (org, bytes) in bytes {
            let Some(held) = self.orgs.get_mut(org) else { continue };
            let bytes = held.unstored.min(*bytes);
            held.unstored -= bytes;
            self.unstored -= bytes;
            if held.unstored <= held.refused_at / 2 {
                held.refused_at = 0;
            }
            self.forget_if_empty(*org);
        }
    }

    fn forget_if_empty(&mut self, org: OrgId) {
        if self.orgs.get(&org).is_some_and(|held| held.unstored == 0) {
            self.orgs.remove(&org);
        }
    }
}

impl OrgHeld {
    /// Moves what waits to the group that is being filled.
    const fn enter(&mut self, group: u64) {
        match group - self.group {
            0 => {}
            1 => self.waiting = [QueuedAppends::NONE, self.waiting[0]],
            _ => self.waiting = [QueuedAppends::NONE; 2],
        }
        self.group = group;
    }

    const fn waiting(&self) -> QueuedAppends {
        let [filling, writing] = self.waiting;
        QueuedAppends {
            appends: filling.appends + writing.appends,
            bytes: filling.bytes + writing.bytes,
        }
    }

    const fn add(&mut self, frame_bytes: u64) {
        self.unstored += frame_bytes;
        self.waiting[0].appends += 1;
        self.waiting[0].bytes += frame_bytes;
    }
}

impl QueuedAppends {
    const NONE: Self = Self { appends: 0, bytes: 0 };
}

/// Adds a frame to its owner's bytes, if it has an owner.
pub(super) fn add_frame(bytes: &mut OrgBytes, owner: Option<OrgId>, frame_bytes: usize) {
    if let Some(org) = owner {
        *bytes.entry(org).or_default() += frame_bytes as u64;
    }
}

/// Whether an organisation that holds `held` may take so much more of what is free.
const fn may_hold(held: u64, take: u64, free: u64) -> bool {
    let left = free.saturating_sub(take);
    held == 0 || held.saturating_add(take) <= left.saturating_mul(ORG_SHARE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Timestamp;

    const TOTAL: u64 = 1_000_000;
    const EMPTY_QUEUE: QueuedAppends = QueuedAppends::NONE;
    const LARGE_QUEUE: QueuedAppends = QueuedAppends { appends: 1_000_000, bytes: u64::MAX };

    fn org() -> OrgId {
        OrgId::mint(Timestamp::from_micros(1))
    }

    /// A journal of [`TOTAL`] bytes whose queue is written at once.
    struct Journal {
        shares: Shares,
        free: FreeBytes,
    }

    impl Journal {
        fn new() -> Self {
            let free = FreeBytes::default();
            free.set(TOTAL);
            Self { shares: Shares::new(|_| None, OrgBytes::new(), free.clone()), free }
        }

        fn append(&mut self, org: OrgId, bytes: u64) -> Result<(), ShareUsedUp> {
            let taken = self.shares.take(org, bytes, EMPTY_QUEUE, LARGE_QUEUE);
            self.free.set(TOTAL - self.shares.unstored());
            taken
        }

        fn fill(&mut self, org: OrgId, bytes: u64) {
            while self.free.get() >= bytes && self.append(org, bytes).is_ok() {}
        }

        fn held(&self, org: OrgId) -> u64 {
            self.shares.orgs.get(&org).map_or(0, |held| held.unstored)
        }
    }

    #[test]
    fn lone_organisation_gets_four_fifths_and_others_go_on() {
        let mut journal = Journal::new();
        let [greedy, other] = [org(), org()];
        journal.fill(greedy, 1_000);
        assert_eq!(journal.held(greedy), TOTAL / 5 * 4);
        assert_eq!(journal.append(greedy, 1_000), Err(ShareUsedUp::Journal { is_first: false }));
        assert_eq!(journal.append(other, 100_000), Ok(()));
        journal.shares.give_back(&OrgBytes::from([(greedy, 600_000)]));
        assert_eq!(journal.append(greedy, 1_000), Ok(()));
        journal.fill(greedy, 1_000);
        // Bytes that were never taken are not given back twice.
        let all = OrgBytes::from([(greedy, u64::MAX), (other, u64::MAX)]);
        journal.shares.give_back(&all);
        assert_eq!((journal.shares.unstored(), journal.shares.orgs.len()), (0, 0));
    }

    #[test]
    fn refusals_are_logged_once_until_half_is_stored() {
        let mut journal = Journal::new();
        let greedy = org();
        let refusal = |journal: &mut Journal| {
            while journal.append(greedy, 1_000).is_ok() {}
            journal.append(greedy, 1_000)
        };
        while journal.append(greedy, 1_000) != Err(ShareUsedUp::Journal { is_first: true }) {}
        journal.shares.give_back(&OrgBytes::from([(greedy, 10_000)]));
        assert_eq!(refusal(&mut journal), Err(ShareUsedUp::Journal { is_first: false }));
        journal.shares.give_back(&OrgBytes::from([(greedy, 500_000)]));
        journal.free.set(TOTAL - journal.shares.unstored());
        while journal.append(greedy, 1_000) != Err(ShareUsedUp::Journal { is_first: true }) {}
    }

    #[test]
    fn queue_share_counts_the_groups_that_are_filled_and_written() {
        let free = FreeBytes::default();
        free.set(u64::MAX);
        let mut shares = Shares::new(|_| None, OrgBytes::new(), free);
        let (greedy, other) = (org(), org());
        let mut waiting = QueuedAppends::NONE;
        let mut take = |shares: &mut Shares, org| {
            let left = QueuedAppends { appends: 10 - waiting.appends, bytes: 1_000 };
            let taken = shares.take(org, 1, waiting, left);
            waiting.appends += u64::from(taken.is_ok());
            taken
        };
        for _ in 0..4 {
            assert_eq!(take(&mut shares, greedy), Ok(()));
        }
        shares.begin_group();
        for _ in 0..4 {
            assert_eq!(take(&mut shares, greedy), Ok(()));
        }
        assert_eq!(take(&mut shares, greedy), Err(ShareUsedUp::Queue));
        assert_eq!(take(&mut shares, other), Ok(()));
        // The first group is written: four places are free again.
        shares.begin_group();
        let left = QueuedAppends { appends: 5, bytes: 1_000 };
        let waiting = QueuedAppends { appends: 5, bytes: 5 };
        assert_eq!(shares.take(greedy, 1, waiting, left), Ok(()));
    }

    proptest! {
        #[test]
        fn newcomer_gets_in_however_many_are_greedy(orgs in 1..30_u64, bytes in 100..2_000_u64) {
            let mut journal = Journal::new();
            let mut greedy: Vec<_> = (0..orgs).map(|_| org()).collect();
            while !greedy.is_empty() {
                greedy.retain(|org| journal.append(*org, bytes).is_ok());
            }
            // Each holds at most four times what is free.
            let least = TOTAL / (1 + ORG_SHARE * orgs) - bytes;
            prop_assert!(journal.free.get() >= least, "{} {least}", journal.free.get());
            prop_assert_eq!(journal.append(org(), 1_000), Ok(()));
        }
    }
}
