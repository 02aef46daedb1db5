//! A disk without space when the journal is opened, on a file system that never overwrites in place.

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::domain::Timestamp;
use crate::journal::{AppendError, JournalState};

/// Records 1 to 3, of which the last one was not synced, and the page cache still has it.
fn with_unsynced_tail() -> SimDisk {
    let disk = SimDisk::default();
    let (journal, ..) = open(&disk);
    block_on(async {
        for seq in 1..=2 {
            journal.append(text_of(seq).as_bytes(), 1).await.unwrap();
        }
        disk.set_faults(Faults { failing_syncs: true, ..NO_FAULTS });
        let failed = journal.append(text_of(3).as_bytes(), 1).await;
        assert_eq!(failed, Err(AppendError::Poisoned));
    });
    journal.shut_down();
    disk.process_crash()
}

/// Appends record 4 until there is space.
async fn append_patiently(journal: &Journal) -> u64 {
    loop {
        match journal.append(text_of(4).as_bytes(), 1).await {
            Err(AppendError::Full) => std::thread::sleep(Duration::from_millis(10)),
            appended => return appended.unwrap().get(),
        }
    }
}

#[test]
fn journal_without_space_for_its_tail_is_full_until_there_is_some() {
    let disk = with_unsynced_tail();
    disk.set_faults(Faults { full_from: Some(0), ..NO_FAULTS });
    let (journal, mut reader, recovery) = open(&disk);
    assert_eq!(recovery.records, 3);
    assert_eq!(journal.status().state, JournalState::Full);
    block_on(async {
        assert_eq!(read(&mut reader, 10).await.records.len(), 3, "what waits is stored");
        // Also once it is tried again.
        for _ in 0..2 {
            while journal.status().state == JournalState::Full {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(journal.append(text_of(4).as_bytes(), 1).await, Err(AppendError::Full));
        }
        disk.set_faults(NO_FAULTS);
        assert_eq!(append_patiently(&journal).await, 4);
    });
    drop((journal, reader));
    // The tail was written again before.
    let (seqs, recovery) = recover(&disk.power_cycle(|| false));
    assert_eq!((seqs, recovery.damage), (vec![1, 2, 3, 4], vec![]));
}

#[test]
fn kept_segments_and_spares_give_their_space_to_the_tail() {
    for part in [".kept", "spare"] {
        let disk = SimDisk::default();
        let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
        let retention = Duration::from_hours(1);
        let options = JournalOptions { retention, clock, ..options(Path::new(DIR)) };
        let (journal, mut reader, _) = try_open(&disk, &options).unwrap();
        block_on(async {
            for _ in 0..6 {
                journal.append(&[7; 450], 1).await.unwrap();
                read(&mut reader, 1).await.ack.ack();
            }
            journal.append(&[7; 450], 1).await.unwrap();
        });
        let has = |(path, _): &(PathBuf, Vec<u8>)| path.to_str().unwrap().contains(part);
        until(part, || disk.files("").iter().any(has));
        drop((journal, reader));
        let disk = disk.process_crash();
        disk.set_faults(Faults { full_beside: Some(part), ..NO_FAULTS });
        let (journal, mut reader, recovery) = try_open(&disk, &options).unwrap();
        assert_eq!((recovery.records, journal.status().state), (1, JournalState::Open), "{part}");
        disk.set_faults(NO_FAULTS);
        block_on(append_patiently(&journal));
        assert_eq!(block_on(drain(&journal, &mut reader)).len(), 2);
    }
}

#[test]
fn spares_give_their_space_to_a_checkpoint_that_is_not_sound() {
    let disk = with_unsynced_tail();
    let path = Path::new(DIR).join("checkpoint");
    disk.put(&path, Some(vec![0xff; 8192]));
    disk.set_faults(Faults { full_beside: Some("spare"), ..NO_FAULTS });
    let (_journal, _reader, recovery) = open(&disk);
    assert_eq!(recovery.records, 3);
}
