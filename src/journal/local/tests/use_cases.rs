//! The local journal as its callers use it.

use std::time::Duration;

use futures_util::future::join_all;

use super::sim_disk::SimDisk;
use super::*;
use crate::domain::Timestamp;
use crate::journal::local::SystemFiles;
use crate::journal::local::append_queue::{AppendQueue, QueueLimits};
use crate::journal::local::shares::{FreeBytes, OrgBytes, Shares};
use crate::journal::{AppendError, JournalState, Seq};

fn small(segments: u64) -> JournalOptions {
    JournalOptions { bytes_max: segments * SEGMENT_BYTES, ..options(Path::new(DIR)) }
}

fn open_system(dir: &Path) -> Result<(Journal, JournalReader, RecoveryReport), JournalError> {
    let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
    try_open_on(&fs, &options(dir))
}

async fn append(journal: &Journal, text: &str) -> Result<u64, AppendError> {
    journal.append(text.as_bytes(), 1).await.map(Seq::get)
}

#[test]
fn appended_records_are_read_back_from_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("journal");
    let (journal, mut reader, recovery) = open_system(&dir).unwrap();
    assert_eq!(recovery, RecoveryReport::default());
    let texts: Vec<_> = (0..100).map(|n| format!("event {n}")).collect();
    let seqs = block_on(join_all(texts.iter().map(|text| append(&journal, text))));
    assert_eq!(seqs, (1..=100).map(Ok).collect::<Vec<_>>());
    assert_eq!(journal.status().items_waiting, 100);
    let read_texts = |records: &[Record]| records.iter().map(text).collect::<Vec<_>>();
    let batch = block_on(read(&mut reader, 20));
    assert_eq!(read_texts(&batch.records), texts[..20]);
    batch.ack.ack();
    let records = block_on(drain(&journal, &mut reader));
    assert_eq!(read_texts(&records), texts[20..]);
    assert_eq!(journal.status().items_waiting, 80);
    journal.shut_down();

    let (journal, mut reader, recovery) = open_system(&dir).unwrap();
    assert_eq!((recovery.records, recovery.torn_bytes), (80, 0));
    let records = block_on(drain(&journal, &mut reader));
    assert_eq!(read_texts(&records), texts[20..]);
}

#[test]
fn two_processes_cannot_share_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let first = open_system(dir.path()).unwrap();
    let second = open_system(dir.path());
    assert!(matches!(second, Err(JournalError::InUse { .. })));
    drop(first);
    open_system(dir.path()).unwrap();
}

#[test]
fn batch_stays_within_its_limits_but_for_a_single_record() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for items in [2, 2, 2, 9, 1] {
            journal.append(&[b'x'; 100], items).await.unwrap();
        }
        let mut sizes = Vec::new();
        for (items_max, bytes_max) in [(5, 1000), (5, 1000), (5, 1000), (5, 10)] {
            let batch = reader.next_batch(items_max, bytes_max).await.unwrap().unwrap();
            sizes.push(batch.records.iter().map(|record| record.items).collect::<Vec<_>>());
        }
        assert_eq!(sizes, [vec![2, 2], vec![2], vec![9], vec![1]]);
        journal.close();
        assert!(reader.next_batch(5, 1000).await.unwrap().is_none());
    });
}

#[test]
fn reader_waits_for_the_next_record() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        let (batch, seq) = tokio::join!(read(&mut reader, 10), append(&journal, "late"));
        assert_eq!((batch.records[0].seq.get(), seq), (1, Ok(1)));
    });
}

#[test]
fn closed_journal_refuses_appends_and_returns_its_records() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        append(&journal, "one").await.unwrap();
        journal.close();
        assert_eq!(append(&journal, "two").await, Err(AppendError::Closed));
        assert_eq!(journal.status().state, JournalState::Closed);
        assert_eq!(drain(&journal, &mut reader).await.len(), 1);
    });
}

#[test]
fn full_journal_refuses_appends_until_batches_are_acknowledged() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = try_open(&disk, &small(2)).unwrap();
    let big = "x".repeat(400);
    block_on(async {
        // Two records fit into a segment.
        for seq in 1..=4 {
            assert_eq!(append(&journal, &big).await, Ok(seq));
        }
        assert_eq!(append(&journal, &big).await, Err(AppendError::Full));
        // The segment manager may only now tell of the segment that is used up already.
        while journal.status().state != JournalState::Full {
            assert_eq!(append(&journal, &big).await, Err(AppendError::Full));
        }
        read(&mut reader, 2).await.ack.ack();
        let mut next = append(&journal, &big).await;
        while next == Err(AppendError::Full) {
            std::thread::yield_now();
            next = append(&journal, &big).await;
        }
        assert_eq!(next, Ok(5));
        assert!(journal.status().bytes <= 2 * SEGMENT_BYTES);
    });
}

#[test]
fn acknowledged_segments_are_reused_and_the_directory_does_not_grow() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = try_open(&disk, &small(4)).unwrap();
    let big = "x".repeat(400);
    block_on(async {
        for _ in 0..200 {
            while append(&journal, &big).await == Err(AppendError::Full) {
                std::thread::yield_now();
            }
            read(&mut reader, 1).await.ack.ack();
        }
    });
    journal.shut_down();
    let files = disk.files("").len() - 1;
    assert!(files <= 4, "{files} segment files");
    let (_, _, recovery) = open(&disk);
    assert_eq!((recovery.records, recovery.damage.len()), (0, 0));
}

#[test]
fn batches_acknowledged_out_of_order_are_forgotten_once_the_oldest_is() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for text in ["one", "two", "three"] {
            append(&journal, text).await.unwrap();
        }
        let (first, second) = (read(&mut reader, 1).await, read(&mut reader, 1).await);
        first.ack.set_accepted_at(Timestamp::from_micros(7));
        assert!(first.has_more && second.has_more);

        let third = read(&mut reader, 1).await;
        third.ack.ack();
        assert_eq!(journal.status().items_waiting, 3);
        assert_eq!(journal.status().oldest_unacked, Some(Timestamp::from_micros(7)));
        first.ack.ack();
        assert_eq!(journal.status().items_waiting, 2);
        drop(second);
    });
    journal.shut_down();
    assert_eq!(open(&disk).2.records, 2, "the dropped batch and the one behind it");
}

#[test]
fn record_that_fits_no_segment_is_refused() {
    let disk = SimDisk::default();
    let (journal, ..) = open(&disk);
    block_on(async {
        assert_eq!(journal.append(&[1; 1024 - 28], 1).await.map(Seq::get), Ok(1));
        assert_eq!(journal.append(&[1; 1024 - 27], 1).await, Err(AppendError::TooLarge));
    });
}

fn small_queue() -> AppendQueue {
    let limits = QueueLimits { appends: 2, bytes: 1000, record_bytes: 5000 };
    AppendQueue::new(limits, Shares::new(|_| None, OrgBytes::new(), FreeBytes::default()))
}

#[test]
fn queue_is_bounded_by_count_and_by_bytes() {
    let queue = small_queue();
    let first = queue.push(&[0; 2000], 1);
    assert!(first.is_ok(), "one append may always wait");
    assert_eq!(queue.push(b"x", 1).err(), Some(AppendError::Busy));
    let taken = queue.take(None, Duration::ZERO).unwrap();
    assert_eq!(queue.push(b"x", 1).err(), Some(AppendError::Busy), "until it is synced");
    taken.complete(1, 1, AppendError::Poisoned);
    queue.close();
    assert!(queue.take(Some(taken), Duration::ZERO).is_none());
    assert_eq!(block_on(first.unwrap_or_else(|_| unreachable!())).map(Seq::get), Ok(1));

    let queue = small_queue();
    assert!(queue.push(b"x", 1).is_ok() && queue.push(b"x", 1).is_ok());
    assert_eq!(queue.push(b"x", 1).err(), Some(AppendError::Busy));
}

#[test]
fn journal_smaller_than_two_segments_is_refused() {
    let error = try_open(&SimDisk::default(), &small(1)).err().unwrap();
    assert!(matches!(error, JournalError::TooSmall));
}
