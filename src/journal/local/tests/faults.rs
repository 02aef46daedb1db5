//! File systems that fail while the journal is open.

use futures_util::future::join_all;

use super::sim_disk::SimDisk;
use super::sim_faults::Faults;
use super::*;
use crate::journal::{AppendError, JournalState, JournalStatus, Seq};

async fn append(journal: &Journal, seq: u64) -> Result<u64, AppendError> {
    journal.append(text_of(seq).as_bytes(), 1).await.map(Seq::get)
}

/// Five appends, then the fault: later appends fail, even once the fault is gone.
fn poisoned_by(faults: Faults) -> SimDisk {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for seq in 1..=5 {
            assert_eq!(append(&journal, seq).await, Ok(seq));
        }
        disk.set_faults(faults);
        let failed = join_all((6..=8).map(|seq| append(&journal, seq))).await;
        assert_eq!(failed, vec![Err(AppendError::Poisoned); 3]);
        disk.set_faults(Faults::default());
        assert_eq!(append(&journal, 6).await, Err(AppendError::Poisoned));
        let JournalStatus { state, items_waiting, .. } = journal.status();
        assert_eq!((state, items_waiting), (JournalState::Poisoned, 5));
        let syncs = disk.syncs();
        let records = drain(&journal, &mut reader).await;
        assert_eq!(records.len(), 5, "exactly the synced records are read");
        assert_eq!(disk.syncs(), syncs, "a failed sync is not repeated");
    });
    disk
}

#[test]
fn failed_write_poisons_and_loses_no_acknowledged_record() {
    let disk = poisoned_by(Faults { failing_writes: true, ..Faults::default() });
    assert_eq!(recover(&disk.power_cycle(|| false)).0, [1, 2, 3, 4, 5]);
}

#[test]
fn failed_sync_poisons_and_loses_no_acknowledged_record() {
    let disk = poisoned_by(Faults { failing_syncs: true, ..Faults::default() });
    assert_eq!(recover(&disk.power_cycle(|| false)).0, [1, 2, 3, 4, 5]);
}

#[test]
fn records_recovered_after_a_failed_sync_survive_a_later_power_failure() {
    let disk = poisoned_by(Faults { failing_syncs: true, ..Faults::default() }).copy();
    let (seqs, _) = recover(&disk);
    assert!(seqs.len() > 5, "the page cache still has them: {seqs:?}");
    assert_eq!(recover(&disk.power_cycle(|| false)).0, seqs);
}

#[test]
fn short_and_interrupted_calls_are_completed() {
    let disk = SimDisk::default();
    disk.set_faults(Faults { short: Some(7), interrupted: true, ..Faults::default() });
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for seq in 1..=40 {
            assert_eq!(append(&journal, seq).await, Ok(seq));
        }
        assert_eq!(drain(&journal, &mut reader).await.len(), 40);
    });
    journal.shut_down();
    assert_eq!(recover(&disk.power_cycle(|| false)).0, (1..=40).collect::<Vec<_>>());
}

#[test]
fn full_disk_refuses_appends_until_there_is_space() {
    let disk = SimDisk::default();
    // The checkpoint's file is there before the disk fills up.
    drop(open(&disk));
    for (path, _) in disk.files("spare-1") {
        disk.put(&path, None);
    }
    disk.set_faults(Faults { no_space: true, ..Faults::default() });
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        assert_eq!(append(&journal, 1).await, Err(AppendError::Full));
        assert_eq!(journal.status().state, JournalState::Full);
        disk.heal_and_wait_for_growth();
        let mut result = append(&journal, 1).await;
        while result == Err(AppendError::Full) {
            std::thread::yield_now();
            result = append(&journal, 1).await;
        }
        assert_eq!(result, Ok(1));
        assert_eq!(drain(&journal, &mut reader).await.len(), 1);
    });
}

#[test]
fn failing_checkpoint_stops_nothing() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    disk.set_faults(Faults { failing_checkpoints: true, ..Faults::default() });
    let record = [b'x'; 400];
    block_on(async {
        // Two records fit into a segment. No segment is freed without a durable checkpoint.
        for _ in 0..20 {
            journal.append(&record, 1).await.unwrap();
            read(&mut reader, 1).await.ack.ack();
        }
    });
    assert!(journal.status().bytes >= 10 * SEGMENT_BYTES);
    journal.shut_down();
    assert_eq!(open(&disk.copy()).2.records, 20);
}

#[test]
fn dropped_append_does_not_affect_others() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for seq in 1..=20 {
            let abandoned = append(&journal, 0);
            let kept = append(&journal, seq);
            tokio::select! {
                biased;
                _ = abandoned => {}
                () = std::future::ready(()) => {}
            }
            assert!(kept.await.is_ok());
        }
        assert_eq!(drain(&journal, &mut reader).await.len(), 40);
    });
}
