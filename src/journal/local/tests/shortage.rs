//! Want of file descriptors and memory: a passing condition.

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::journal::{AppendError, JournalState, Seq};

/// Two of these fit into a segment.
const RECORD: [u8; 400] = [b'x'; 400];

const NO_DESCRIPTORS: Faults = Faults { no_descriptors: true, ..NO_FAULTS };
const NO_MEMORY: Faults = Faults { no_memory: true, ..NO_FAULTS };

async fn append(journal: &Journal) -> Result<u64, AppendError> {
    journal.append(&RECORD, 1).await.map(Seq::get)
}

/// Appends until it works again.
async fn append_patiently(journal: &Journal) -> u64 {
    loop {
        match append(journal).await {
            Err(AppendError::NoSegment) => std::thread::yield_now(),
            result => return result.unwrap(),
        }
    }
}

/// Waits until there is a spare besides the one segment that is written to.
fn wait_for_spare(journal: &Journal) {
    while journal.status().bytes < 2 * SEGMENT_BYTES {
        std::thread::yield_now();
    }
}

#[test]
fn segment_that_cannot_be_prepared_refuses_appends_until_it_can() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        assert_eq!(append(&journal).await, Ok(1));
        disk.set_faults(NO_DESCRIPTORS);
        let mut appended = 1;
        let refused = loop {
            match append(&journal).await {
                Ok(seq) => appended = seq,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, AppendError::NoSegment);
        assert_eq!(journal.status().state, JournalState::NoSegment);
        assert_eq!(append(&journal).await, Err(AppendError::NoSegment), "as long as it lasts");

        disk.set_faults(NO_FAULTS);
        assert_eq!(append_patiently(&journal).await, appended + 1, "no seq is left out");
        assert_eq!(journal.status().state, JournalState::Open);
        assert_eq!(drain(&journal, &mut reader).await.len() as u64, appended + 1);
    });
    journal.shut_down();
    assert_eq!(open(&disk.power_cycle(|| false)).2.damage, []);
}

#[test]
fn prepared_segment_is_started_without_a_descriptor() {
    let disk = SimDisk::default();
    let (journal, _reader, _) = open(&disk);
    block_on(async {
        append(&journal).await.unwrap();
        wait_for_spare(&journal);
        disk.set_faults(NO_DESCRIPTORS);
        for seq in 2..=4 {
            assert_eq!(append(&journal).await, Ok(seq));
        }
    });
    journal.shut_down();
    assert_eq!(open(&disk.power_cycle(|| false)).2.records, 4);
}

#[test]
fn segment_that_cannot_be_named_for_want_of_memory_is_tried_again() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        disk.set_faults(NO_MEMORY);
        for _ in 0..3 {
            assert_eq!(append(&journal).await, Err(AppendError::NoSegment));
        }
        assert_ne!(journal.status().state, JournalState::Poisoned);
        disk.set_faults(NO_FAULTS);
        assert_eq!(append_patiently(&journal).await, 1);
        assert_eq!(drain(&journal, &mut reader).await.len(), 1);
    });
}

#[test]
fn acknowledged_segments_are_freed_without_a_descriptor() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for _ in 0..6 {
            append(&journal).await.unwrap();
        }
        let mut acks = Vec::new();
        for _ in 0..6 {
            acks.push(read(&mut reader, 1).await.ack);
        }
        let before = journal.status().bytes;
        disk.set_faults(NO_DESCRIPTORS);
        acks.into_iter().for_each(crate::journal::Ack::ack);
        while journal.status().bytes >= before {
            std::thread::yield_now();
        }
        disk.set_faults(NO_FAULTS);
        append_patiently(&journal).await;
    });
    journal.shut_down();
    assert_eq!(open(&disk.power_cycle(|| false)).2.damage, []);
}

#[test]
fn reader_waits_until_it_can_open_the_next_segment() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for _ in 0..4 {
            append(&journal).await.unwrap();
        }
        disk.set_faults(NO_DESCRIPTORS);
        let mut first = Box::pin(reader.next_batch(10, 10_000));
        assert!(futures_util::poll!(&mut first).is_pending());
        disk.set_faults(NO_FAULTS);
        assert_eq!(first.await.unwrap().unwrap().records.len(), 2);
        assert_eq!(read(&mut reader, 10).await.records.len(), 2);
    });
}

#[test]
fn damage_waits_for_its_quarantine() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for seq in 1..=3 {
            journal.append(text_of(seq).as_bytes(), 1).await.unwrap();
        }
        let (path, _) = disk.files(".segment").remove(0);
        disk.flip(&path, frame_range(1, 2).end - 1);
        assert_eq!(read(&mut reader, 1).await.records.len(), 1);
        disk.set_faults(NO_DESCRIPTORS);
        let mut next = Box::pin(reader.next_batch(10, 10_000));
        assert!(futures_util::poll!(&mut next).is_pending());
        disk.set_faults(NO_FAULTS);
        let records = next.await.unwrap().unwrap().records;
        assert_eq!(records.iter().map(|record| record.seq.get()).collect::<Vec<_>>(), [3]);
    });
    let quarantined = disk
        .files("")
        .into_iter()
        .filter(|(path, _)| path.components().any(|part| part.as_os_str() == "damaged"));
    assert_eq!(quarantined.count(), 1);
}
