//! What poisons a journal, and what does not.

use std::sync::Arc;

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::journal::local::SystemFiles;
use crate::journal::{AppendError, JournalState, Seq};

async fn append(journal: &Journal, seq: u64) -> Result<u64, AppendError> {
    journal.append(text_of(seq).as_bytes(), 1).await.map(Seq::get)
}

/// Appends until it works again.
async fn append_patiently(journal: &Journal, seq: u64) -> u64 {
    loop {
        match append(journal, seq).await {
            Err(AppendError::Full | AppendError::NoSegment) => std::thread::yield_now(),
            result => return result.unwrap(),
        }
    }
}

/// A journal with the records 1 to 3 in its first segment.
async fn with_three_records(disk: &SimDisk) -> (Journal, JournalReader) {
    let (journal, reader, _) = open(disk);
    for seq in 1..=3 {
        assert_eq!(append(&journal, seq).await, Ok(seq));
    }
    (journal, reader)
}

#[test]
fn disk_that_is_full_before_the_first_byte_of_a_group_refuses_and_does_not_poison() {
    let disk = SimDisk::default();
    block_on(async {
        let (journal, mut reader) = with_three_records(&disk).await;
        let full_from = Some(frame_range(1, 4).start);
        disk.set_faults(Faults { full_from, ..NO_FAULTS });
        for _ in 0..3 {
            assert_eq!(append(&journal, 4).await, Err(AppendError::Full));
        }
        assert_eq!(journal.status().state, JournalState::Full);
        disk.set_faults(NO_FAULTS);
        assert_eq!(append_patiently(&journal, 4).await, 4);
        assert_eq!(drain(&journal, &mut reader).await.len(), 4);
        journal.shut_down();
    });
    assert_eq!(recover(&disk.power_cycle(|| false)).0, [1, 2, 3, 4]);
}

#[test]
fn disk_that_fills_up_within_a_group_poisons() {
    let disk = SimDisk::default();
    block_on(async {
        let (journal, mut reader) = with_three_records(&disk).await;
        let full_from = Some(frame_range(1, 4).start + 10);
        disk.set_faults(Faults { full_from, ..NO_FAULTS });
        assert_eq!(append(&journal, 4).await, Err(AppendError::Poisoned));
        disk.set_faults(NO_FAULTS);
        assert_eq!(append(&journal, 4).await, Err(AppendError::Poisoned));
        journal.wait_poisoned().await;
        let batch = read(&mut reader, 10).await;
        assert_eq!(batch.records.len(), 3);
        assert!(reader.next_batch(10, 10_000).await.unwrap().is_none());
        let mut drained = Box::pin(journal.wait_drained());
        assert!(futures_util::poll!(&mut drained).is_pending(), "a batch is in flight");
        batch.ack.ack();
        drained.await;
    });
    assert_eq!(recover(&disk.power_cycle(|| false)).0, Vec::<u64>::new());
}

#[test]
fn segment_that_the_disk_fails_before_it_holds_a_record_is_given_up_for_another() {
    for faults in [
        Faults { failing_dir_syncs: true, ..NO_FAULTS },
        Faults { failing_names: true, ..NO_FAULTS },
    ] {
        let disk = SimDisk::default();
        block_on(async {
            let (journal, mut reader, _) = open(&disk);
            disk.set_faults(faults);
            assert_eq!(append(&journal, 1).await, Err(AppendError::NoSegment));
            assert_ne!(journal.status().state, JournalState::Poisoned);
            disk.set_faults(NO_FAULTS);
            assert_eq!(append_patiently(&journal, 1).await, 1);
            assert_eq!(drain(&journal, &mut reader).await.len(), 1);
            journal.shut_down();
        });
        assert_eq!(recover(&disk.power_cycle(|| false)).0, [1]);
    }
}

#[test]
fn segment_that_cannot_be_freed_is_tried_again() {
    let disk = SimDisk::default();
    let record = [b'x'; 400];
    block_on(async {
        let (journal, mut reader, _) = open(&disk);
        for _ in 0..8 {
            journal.append(&record, 1).await.unwrap();
        }
        let before = disk.files(".segment").len();
        disk.set_faults(Faults { failing_names: true, ..NO_FAULTS });
        let mut acks = Vec::new();
        for _ in 0..8 {
            acks.push(read(&mut reader, 1).await.ack);
        }
        acks.into_iter().for_each(crate::journal::Ack::ack);
        disk.set_faults(NO_FAULTS);
        while disk.files(".segment").len() + 2 >= before {
            std::thread::yield_now();
        }
    });
}

#[test]
fn lost_lock_poisons() {
    let disk = SimDisk::default();
    block_on(async {
        let (journal, mut reader) = with_three_records(&disk).await;
        disk.set_faults(Faults { lock_is_lost: true, ..NO_FAULTS });
        journal.wait_poisoned().await;
        assert_eq!(append(&journal, 4).await, Err(AppendError::Poisoned));
        assert_eq!(drain(&journal, &mut reader).await.len(), 3, "what is durable is read");
    });
}

#[test]
fn directory_is_locked_itself_and_replacing_it_poisons() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/journal");
    let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
    let (journal, _reader, _) = try_open_on(&fs, &options(&dir)).unwrap();
    // There is no file whose removal would release it.
    assert!(!dir.join("lock").exists());
    assert!(matches!(try_open_on(&fs, &options(&dir)), Err(JournalError::InUse { .. })));

    std::fs::rename(&dir, parent.path().join("old")).unwrap();
    let (successor, ..) = try_open_on(&fs, &options(&dir)).unwrap();
    block_on(journal.wait_poisoned());
    assert_eq!(successor.status().state, JournalState::Open);
}

#[test]
fn lock_file_of_an_earlier_version_is_respected() {
    let dir = tempfile::tempdir().unwrap();
    let earlier = std::fs::File::create(dir.path().join("lock")).unwrap();
    earlier.try_lock().unwrap();
    let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
    let open = || try_open_on(&fs, &options(dir.path()));
    assert!(matches!(open(), Err(JournalError::InUse { .. })));
    drop(earlier);
    assert_eq!(open().unwrap().2.unknown_files, Vec::<PathBuf>::new());
}
