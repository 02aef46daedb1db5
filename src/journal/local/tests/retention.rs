//! Segments that are kept after their records are stored: for a time, and while nobody needs their space.

use std::time::Duration;

use futures_util::future::join_all;

use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::domain::Timestamp;
use crate::journal::local::{Lost, back_up, extent};
use crate::journal::{AppendError, JournalRecords};

const HOUR: Duration = Duration::from_hours(1);

fn keeping(segments_max: u64, clock: &Clock) -> JournalOptions {
    JournalOptions {
        retention: HOUR,
        clock: clock.clone(),
        bytes_max: segments_max * SEGMENT_BYTES,
        ..options(Path::new(DIR))
    }
}

fn clock() -> Clock {
    Clock::manual(Timestamp::from_micros(1_700_000_000_000_000))
}

/// Appends records of half a segment each, and acknowledges them.
async fn store(journal: &Journal, reader: &mut JournalReader, records: usize) {
    for _ in 0..records {
        journal.append(&[7; 450], 1).await.unwrap();
        read(reader, 1).await.ack.ack();
    }
}

fn kept(disk: &SimDisk) -> usize {
    disk.files(".kept").len()
}

#[test]
fn stored_segments_are_kept_for_their_time() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(64, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 19));
    until("all but the open one are kept", || kept(&disk) == 9);
    drop((journal, reader));

    let before = disk.read_bytes();
    let (journal, mut reader, recovery) = try_open(&disk, &keeping(64, &clock)).unwrap();
    assert_eq!((recovery.records, recovery.unknown_files.len()), (0, 0));
    let read = disk.read_bytes() - before;
    assert!(read < 5 * SEGMENT_BYTES, "{read} bytes: more than checkpoint and last segment");
    until("the one that was open is kept", || kept(&disk) == 10);
    clock.advance(HOUR / 2);
    block_on(store(&journal, &mut reader, 3));
    until("one more is kept", || kept(&disk) == 11);
    clock.advance(HOUR / 2);
    until("the older ones are given up", || kept(&disk) == 1);
}

#[test]
fn step_of_the_wall_clock_gives_no_kept_segment_up() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(64, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 9));
    until("they are kept", || kept(&disk) == 4);
    let day_micros = 24 * 3_600_000_000;
    for step in [day_micros, -2 * day_micros] {
        clock.step_by(step);
        // One after the other, so that the segment manager looks at those that are kept in between.
        for _ in 0..3 {
            let before = kept(&disk);
            block_on(store(&journal, &mut reader, 2));
            until("one more is kept", || kept(&disk) == before + 1);
        }
    }
    assert_eq!(kept(&disk), 10);
    // Nor does it keep them longer.
    clock.advance(HOUR);
    until("they are given up", || kept(&disk) == 0);
}

#[test]
fn kept_segments_leave_their_space_to_new_ones() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(4, &clock)).unwrap();
    // None is refused as full.
    block_on(store(&journal, &mut reader, 40));
    until("two are kept", || kept(&disk) == 2);
    let files = disk.files(".segment").len() + disk.files(".kept").len();
    assert!(files + spares(&disk) <= 4);
    // The backlog gets the space of what is stored.
    let backlog = async {
        let mut appended = 0;
        while journal.append(&[7; 450], 1).await.is_ok() {
            appended += 1;
        }
        appended
    };
    assert!(block_on(backlog) >= 6);
    assert_eq!(kept(&disk), 0);
}

/// With a segment that cannot be freed, the writer would otherwise wait for ever.
#[test]
fn kept_segments_leave_their_space_while_another_one_cannot_be_freed() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(4, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 8));
    until("two are kept, beside a spare", || kept(&disk) == 2 && spares(&disk) == 1);
    disk.set_faults(Faults { failing_frees: true, ..NO_FAULTS });
    // The segment that was open, the spare, and the two that were kept.
    block_on(store(&journal, &mut reader, 6));
    assert_eq!(kept(&disk), 0);
    assert_eq!(block_on(journal.append(&[7; 450], 1)), Err(AppendError::Full));
}

/// As after a start with a smaller limit. The writer would otherwise wait for ever for the space of kept segments that
/// are gone.
#[test]
fn journal_beyond_its_size_whose_kept_segments_are_removed_is_full() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(64, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 9));
    until("they are kept", || kept(&disk) == 4);
    block_on(join_all((0..6).map(|_| journal.append(&[7; 450], 1))));
    drop((journal, reader));
    let (journal, _reader, _) = try_open(&disk, &keeping(2, &clock)).unwrap();
    until("one becomes a spare", || spares(&disk) > 0);
    // What cannot be opened becomes no spare, and is removed.
    disk.set_no_descriptors(true);
    let appends = block_on(join_all((0..6).map(|_| journal.append(&[7; 450], 1))));
    let is_durable: Vec<_> = appends.iter().map(Result::is_ok).collect();
    assert_eq!(is_durable, [true, true, false, false, false, false], "{appends:?}");
}

#[test]
fn kept_segments_are_removed_when_the_disk_is_short_of_space() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(64, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 9));
    until("they are kept", || kept(&disk) == 4);
    disk.set_faults(Faults { free_bytes: Some(SEGMENT_BYTES), ..NO_FAULTS });
    until("they are removed", || kept(&disk) == 0);
}

#[test]
fn disk_without_space_for_a_segment_gets_that_of_a_kept_one() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(64, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 9));
    until("they are kept", || kept(&disk) == 4);
    disk.set_faults(Faults { no_space: true, ..NO_FAULTS });
    let refusals = async {
        let mut refusals = 0;
        for _ in 0..6 {
            refusals += usize::from(journal.append(&[7; 450], 1).await.is_err());
        }
        refusals
    };
    assert_eq!(block_on(refusals), 0);
    assert!(kept(&disk) < 4);
}

#[test]
fn records_are_read_by_a_command_in_order_and_past_damage() {
    let (disk, clock) = (SimDisk::default(), clock());
    let (journal, mut reader, _) = try_open(&disk, &keeping(64, &clock)).unwrap();
    block_on(store(&journal, &mut reader, 9));
    block_on(journal.append(&[7; 450], 1)).unwrap();
    until("all but the open one are kept", || kept(&disk) == 4);
    drop((journal, reader));
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let read = |from| {
        let mut records = JournalRecords::open(&fs, Path::new(DIR), from).unwrap();
        assert_eq!(records.extent().stored_below, 10);
        let mut seqs = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            seqs.push(record.seq.get());
        }
        assert_eq!(records.end(), 11);
        let Lost { stored, waiting } = records.lost();
        (seqs, stored, waiting)
    };
    assert_eq!(read(0), ((1..=10).collect(), 0, 0));
    assert_eq!(read(6), ((5..=10).collect(), 0, 0), "from the segment with it");
    assert_eq!(read(99), ((9..=10).collect(), 0, 0), "what waits is read in any case");
    let (path, _) = disk.files(".kept").remove(1);
    disk.flip(&path, usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + 40);
    assert_eq!(read(0), (vec![1, 2, 4, 5, 6, 7, 8, 9, 10], 1, 0));
    // The one that waits is the second of the open segment.
    let (path, _) = disk.files(".segment").remove(0);
    disk.flip(&path, usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + 500 + 40);
    assert_eq!(read(0), (vec![1, 2, 4, 5, 6, 7, 8, 9], 1, 1));
}

#[test]
fn records_that_a_command_has_stored_wait_no_longer() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(store(&journal, &mut reader, 5));
    for _ in 0..4 {
        block_on(journal.append(&[7; 450], 1)).unwrap();
    }
    drop((journal, reader));
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let mut records = JournalRecords::open(&fs, Path::new(DIR), 0).unwrap();
    while records.next_record().unwrap().is_some() {}
    let end = records.end();
    records.confirm(end).unwrap();
    drop(records);
    assert_eq!(extent(&disk, Path::new(DIR)).unwrap().stored_below, 10);
    let (journal, mut reader, recovery) = open(&disk);
    assert_eq!((recovery.records, recovery.damage), (0, vec![]));
    assert_eq!(block_on(journal.append(&[7; 450], 1)).unwrap().get(), 10);
    assert_eq!(block_on(read(&mut reader, 1)).records[0].seq.get(), 10);
}

#[test]
fn backup_has_what_waits() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(store(&journal, &mut reader, 5));
    for _ in 0..4 {
        block_on(journal.append(&[7; 450], 1)).unwrap();
    }
    let stored_below = || extent(&disk, Path::new(DIR)).map(|extent| extent.stored_below);
    until("the checkpoint is written", || stored_below().is_ok_and(|below| below == 6));
    let to = Path::new("/backup/journal");
    assert_eq!(back_up(&disk, Path::new(DIR), to).unwrap().extent.stored_below, 6);
    let (copy, mut reader, recovery) = try_open(&disk, &options(to)).unwrap();
    assert_eq!((recovery.records, recovery.damage), (4, vec![]));
    let records = block_on(drain(&copy, &mut reader));
    assert_eq!(records.iter().map(|record| record.seq.get()).collect::<Vec<_>>(), [6, 7, 8, 9]);
}

fn spares(disk: &SimDisk) -> usize {
    disk.files("").iter().filter(|(path, _)| path.to_str().unwrap().contains("spare-")).count()
}
