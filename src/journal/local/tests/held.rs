//! Segments that are held: a record of them could be neither decoded nor copied.

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::journal::{AppendError, JournalRecords};

/// A disk whose quarantine takes no further copy.
fn with_full_quarantine() -> SimDisk {
    let disk = SimDisk::default();
    for number in 0..1_000 {
        disk.put(&Path::new(DIR).join(format!("damaged/{number}")), Some(Vec::new()));
    }
    disk
}

/// A journal of so many segments at most.
fn open_small(disk: &SimDisk, segments_max: u64) -> (Journal, JournalReader) {
    let bytes_max = segments_max * SEGMENT_BYTES;
    let options = JournalOptions { bytes_max, ..options(Path::new(DIR)) };
    let (journal, reader, recovery) = try_open(disk, &options).unwrap();
    assert_eq!(recovery.unknown_files, Vec::<PathBuf>::new());
    (journal, reader)
}

/// Appends and acknowledges records of half a segment each. Those of these numbers cannot be decoded.
async fn store(
    journal: &Journal,
    reader: &mut JournalReader,
    numbers: std::ops::Range<u8>,
    undecodable: &[u8],
) {
    for number in numbers {
        journal.append(&[number; 450], 1).await.unwrap();
        let batch = read(reader, 1).await;
        if undecodable.contains(&number) {
            reader.quarantine().record(&batch.records[0], "a trial").unwrap();
        }
        batch.ack.ack();
    }
}

#[test]
fn segment_of_an_undecodable_record_without_a_copy_is_held_and_can_be_replayed() {
    let disk = with_full_quarantine();
    let (journal, mut reader) = open_small(&disk, 8);
    // Two to a segment: the second one, and the third one twice.
    block_on(store(&journal, &mut reader, 1..21, &[3, 5, 6]));
    until("both are held", || disk.files(".held").len() == 2);
    until("the others are freed", || disk.files(".segment").len() == 1);
    drop((journal, reader));

    // The power fails; the next run knows as little of the records.
    let disk = disk.power_cycle(|| false);
    let (journal, mut reader) = open_small(&disk, 8);
    block_on(store(&journal, &mut reader, 21..41, &[]));
    drop((journal, reader));
    assert_eq!(disk.files(".held").len(), 2);
    let fs: Arc<dyn FileSystem> = Arc::new(disk);
    let mut records = JournalRecords::open(&fs, Path::new(DIR), 0).unwrap();
    let mut numbers = Vec::new();
    while let Some(record) = records.next_record().unwrap() {
        numbers.push(record.payload[0]);
    }
    assert!(numbers.starts_with(&[3, 4, 5, 6]), "{numbers:?}");
    assert_eq!((records.lost().stored, records.lost().waiting), (0, 0), "given up, not lost");
    assert_eq!(records.extent().oldest, 3);
}

/// A crash after the acknowledgement and before the segment has the name of a held one.
#[test]
fn segment_is_held_that_a_crash_left_under_its_old_name() {
    let disk = with_full_quarantine();
    let (journal, mut reader) = open_small(&disk, 8);
    disk.set_faults(Faults { failing_frees: true, ..NO_FAULTS });
    block_on(store(&journal, &mut reader, 1..9, &[3, 8]));
    drop((journal, reader));
    assert_eq!(disk.files(".held").len(), 0);

    let disk = disk.power_cycle(|| false);
    let (journal, mut reader) = open_small(&disk, 8);
    until("they are held, the last one, too", || disk.files(".held").len() == 2);
    // Their successors in the same journal are not.
    block_on(store(&journal, &mut reader, 9..41, &[]));
    until("the others are freed", || disk.files(".segment").len() == 1);
    assert_eq!(disk.files(".held").len(), 2);
}

#[test]
fn held_segments_take_their_part_of_the_journals_size() {
    let disk = with_full_quarantine();
    let (journal, mut reader) = open_small(&disk, 4);
    block_on(store(&journal, &mut reader, 1..9, &[1, 3]));
    until("both are held", || disk.files(".held").len() == 2);
    let backlog = async |journal: &Journal| {
        let mut appended = 0;
        let full = loop {
            match journal.append(&[9; 450], 1).await {
                Ok(_) => appended += 1,
                Err(error) => break error,
            }
        };
        (appended, full)
    };
    let (appended, full) = block_on(backlog(&journal));
    assert_eq!(full, AppendError::Full);
    assert!(journal.status().bytes >= 2 * SEGMENT_BYTES);
    drop((journal, reader));
    // They count after a restart, too: two segments are left, of two records each.
    let (journal, _reader) = open_small(&disk, 4);
    let (more, _) = block_on(backlog(&journal));
    assert!(appended + more <= 4, "{appended} and {more}");
}

#[test]
fn undecodable_record_whose_copy_is_made_holds_nothing() {
    let disk = SimDisk::default();
    let (journal, mut reader) = open_small(&disk, 8);
    block_on(store(&journal, &mut reader, 1..21, &[3, 5]));
    until("all but the last are freed", || disk.files(".segment").len() == 1);
    assert_eq!(disk.files(".held").len(), 0);
    assert_eq!(
        disk.files("").iter().filter(|(path, _)| path.starts_with("/data/journal/damaged")).count(),
        2
    );
}
