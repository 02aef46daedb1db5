//! Records that are read again while their batch is not acknowledged.

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;

/// A journal with so many records over several segments.
fn written(records: usize) -> (SimDisk, Journal, JournalReader) {
    let disk = SimDisk::default();
    let (journal, reader, _) = open(&disk);
    block_on(async {
        for number in 0..records {
            journal.append(format!("{number} {}", "x".repeat(100)).as_bytes(), 1).await.unwrap();
        }
    });
    (disk, journal, reader)
}

async fn batches(journal: &Journal, reader: &mut JournalReader) -> Vec<Batch> {
    journal.close();
    let mut batches = Vec::new();
    while let Some(batch) = reader.next_batch(3, 10_000).await.unwrap() {
        batches.push(batch);
    }
    batches
}

#[test]
fn records_are_read_again_in_any_order_and_any_number_of_times() {
    let (_disk, journal, mut reader) = written(40);
    block_on(async {
        let again = reader.again();
        let batches = batches(&journal, &mut reader).await;
        assert!(batches.len() > 13, "they are in several segments");
        for batch in batches.iter().rev().chain(&batches) {
            assert_eq!(again.read(&batch.extent).await.unwrap(), batch.records);
        }
    });
}

#[test]
fn what_is_acknowledged_behind_them_takes_nothing_away() {
    let (_disk, journal, mut reader) = written(40);
    block_on(async {
        let again = reader.again();
        let mut batches = batches(&journal, &mut reader).await;
        let first = batches.remove(0);
        for behind in batches {
            behind.ack.ack();
        }
        assert_eq!(again.read(&first.extent).await.unwrap(), first.records);
    });
}

#[test]
fn damage_meanwhile_costs_its_records_alone() {
    let (disk, journal, mut reader) = written(6);
    let extents: Vec<_> = block_on(async {
        let batches = batches(&journal, &mut reader).await;
        batches.into_iter().map(|batch| (batch.extent, batch.records)).collect()
    });
    let (extent, records) = &extents[0];
    let (path, bytes) = disk.files(".segment").remove(0);
    let at = bytes.windows(5).position(|window| window == b"1 xxx").unwrap();
    disk.flip(&path, at);
    let again = block_on_paused(async { reader.again().read(extent).await.unwrap() });
    let left = [&records[..1], &records[2..]].concat();
    assert_eq!(again, left);
}

#[test]
fn lost_segment_costs_its_records_and_no_error() {
    let (disk, journal, mut reader) = written(6);
    block_on_paused(async {
        let extent = batches(&journal, &mut reader).await.remove(0).extent;
        disk.set_faults(Faults { unreadable: Some(0..usize::MAX), ..NO_FAULTS });
        assert_eq!(reader.again().read(&extent).await.unwrap(), []);
    });
}
