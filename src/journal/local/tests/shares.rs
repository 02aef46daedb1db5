//! The shares of organisations in a journal: refused, freed, and recovered.

use futures_util::future::join_all;
use uuid::Uuid;

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::domain::OrgId;
use crate::journal::{AppendError, JournalState, local};

const SEGMENTS: u64 = 16;
/// Five of them and their frame headers fill a segment.
const RECORD_BYTES: usize = 160;
/// What all segments hold.
const CAPACITY_BYTES: i64 = 16 * 5 * (160 + 28);

/// A journal whose records belong to the organisation of their first byte.
struct OwnedJournal {
    journal: Journal,
    reader: JournalReader,
    metrics: Arc<JournalMetrics>,
}

impl OwnedJournal {
    fn open(disk: &SimDisk) -> Self {
        let options = JournalOptions {
            bytes_max: SEGMENTS * SEGMENT_BYTES,
            owner: |record| {
                let org = record.first()?;
                Some(OrgId::from_uuid(Uuid::from_u128(u128::from(*org))))
            },
            ..options(Path::new(DIR))
        };
        let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
        let metrics = JournalMetrics::register(&Registry::new()).unwrap();
        let Opened { journal, reader, .. } = local::open(&options, &fs, &metrics).unwrap();
        Self { journal, reader, metrics }
    }

    async fn append(&self, org: u8) -> Result<(), AppendError> {
        self.journal.append(&[org; RECORD_BYTES], 1).await.map(|_| ())
    }

    /// Appends until the organisation is refused; how many were accepted.
    async fn fill(&self, org: u8) -> u64 {
        let mut accepted = 0;
        loop {
            match self.append(org).await {
                Ok(()) => accepted += 1,
                Err(AppendError::ShareUsedUp) => return accepted,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Acknowledges so many records.
    async fn store(&mut self, records: u32) {
        for _ in 0..records {
            read(&mut self.reader, 1).await.ack.ack();
        }
    }

    fn unstored_bytes(&self) -> i64 {
        self.metrics.hookgate_journal_unstored_bytes.get()
    }
}

#[test]
fn organisation_with_its_share_is_refused_until_its_records_are_stored() {
    let disk = SimDisk::default();
    let mut journal = OwnedJournal::open(&disk);
    block_on(async {
        let accepted = journal.fill(b'a').await;
        // Four fifths of 80 records, or one or two more, since segments begin anew.
        assert!((50..=66).contains(&accepted), "{accepted}");
        for _ in 0..4 {
            assert_eq!(journal.append(b'b').await, Ok(()));
            assert_eq!(journal.append(b'a').await, Err(AppendError::ShareUsedUp));
        }
        assert_eq!(journal.journal.status().state, JournalState::Open);
        journal.store(30).await;
        while journal.append(b'a').await == Err(AppendError::ShareUsedUp) {
            std::thread::yield_now();
        }
    });
}

#[test]
fn shares_are_counted_again_after_a_crash() {
    let disk = SimDisk::default();
    let mut journal = OwnedJournal::open(&disk);
    let before = block_on(async {
        journal.fill(b'a').await;
        journal.store(1).await;
        journal.append(b'b').await.unwrap();
        journal.unstored_bytes()
    });
    // Everything that was synced survives, and so does the process's last checkpoint, or not.
    let mut journal = OwnedJournal::open(&disk.power_cycle(|| false));
    let recovered = journal.unstored_bytes();
    let frame = i64::try_from(RECORD_BYTES + 28).unwrap();
    assert!((before..=before + frame).contains(&recovered), "{before} {recovered}");
    block_on(async {
        assert!(journal.fill(b'a').await <= 5, "it has its share");
        assert_eq!(journal.append(b'b').await, Ok(()));
        let records = u32::try_from(journal.unstored_bytes() / frame).unwrap();
        journal.store(records).await;
        assert_eq!(journal.unstored_bytes(), 0);
    });
}

#[test]
fn appends_that_find_no_space_hold_no_share() {
    let disk = SimDisk::default();
    let mut journal = OwnedJournal::open(&disk);
    block_on(async {
        // Each holds nothing, so all are admitted together, beyond what the disk has.
        let mut stored = 0;
        for first in [0, 100] {
            let appends = join_all((first..first + 100).map(|org| journal.append(org)));
            for append in appends.await {
                match append {
                    Ok(()) => stored += 1,
                    Err(error) => assert_eq!(error, AppendError::Full),
                }
            }
        }
        let frame = i64::try_from(RECORD_BYTES + 28).unwrap();
        assert_eq!(stored * frame, CAPACITY_BYTES, "the journal is full");
        journal.store(u32::try_from(stored).unwrap()).await;
        assert_eq!(journal.unstored_bytes(), 0);
    });
}

#[test]
fn appends_that_find_no_segment_hold_no_share() {
    let disk = SimDisk::default();
    let mut journal = OwnedJournal::open(&disk);
    block_on(async {
        disk.set_faults(Faults { no_descriptors: true, ..NO_FAULTS });
        let (mut stored, mut refused) = (0, 0);
        while refused < 100 {
            match journal.append(b'a').await {
                Ok(()) => stored += 1,
                Err(AppendError::NoSegment) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        disk.set_faults(NO_FAULTS);
        journal.store(stored).await;
        assert_eq!(journal.unstored_bytes(), 0);
    });
}
