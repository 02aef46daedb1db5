//! Bytes that the disk cannot return.

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::journal::local::{Damage, Opened, back_up};

/// The unit in which bytes become unreadable.
const PAGE: usize = 4096;
/// A frame with its record: four to a page.
const RECORD_BYTES: usize = PAGE / 4 - 28;

/// A journal whose segments have several pages.
fn large_options() -> JournalOptions {
    JournalOptions {
        segment_bytes: SEGMENT_HEADER_BYTES + 4 * PAGE as u64,
        ..options(Path::new(DIR))
    }
}

/// Segments with the records 1 to 16 and so on, each record in a group of its own.
fn written(records: u8) -> SimDisk {
    let disk = SimDisk::default();
    let (journal, ..) = try_open(&disk, &large_options()).unwrap();
    block_on(async {
        for seq in 1..=records {
            journal.append(&[seq; RECORD_BYTES], 1).await.unwrap();
        }
    });
    journal.shut_down();
    disk.power_cycle(|| false)
}

/// The same, but the process was killed: the checkpoint is the last one that was due.
fn killed(records: u8) -> SimDisk {
    let disk = written(0);
    let (journal, ..) = try_open(&disk, &large_options()).unwrap();
    block_on(async {
        for seq in 1..=records {
            journal.append(&[seq; RECORD_BYTES], 1).await.unwrap();
        }
    });
    disk.copy()
}

fn seqs(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.seq.get()).collect()
}

#[test]
fn unreadable_page_costs_its_records_and_neither_start_nor_run() {
    let disk = written(40);
    // The second page behind the header, in every segment.
    let page = 2 * PAGE..3 * PAGE;
    disk.set_faults(Faults { unreadable: Some(page.clone()), ..NO_FAULTS });
    let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
    let records = block_on_paused(drain(&journal, &mut reader));
    let lost = |seq: &u64| (5..=8).contains(&((seq - 1) % 16 + 1));
    assert_eq!(seqs(&records), (1..=40).filter(|seq| !lost(seq)).collect::<Vec<_>>());
    // The reader meets what recovery has not looked at.
    let Some(Damage { offset, bytes, quarantined, .. }) = recovery.damage.last() else {
        panic!("{recovery:?}")
    };
    assert_eq!((*offset, *bytes), (page.start as u64, PAGE as u64));
    let copies = disk.files(&format!("-{}", page.start));
    assert_eq!(copies.len(), 3);
    assert_eq!(
        copies.iter().find(|(path, _)| Some(path) == quarantined.as_ref()).unwrap().1,
        [0xff; PAGE]
    );
    assert_eq!(
        journal.status().items_waiting,
        36,
        "those of the last segment are known to be lost"
    );
}

#[test]
fn backup_lacks_the_records_of_an_unreadable_page_alone_and_names_their_segments() {
    let disk = written(40);
    disk.set_faults(Faults { unreadable: Some(2 * PAGE..3 * PAGE), ..NO_FAULTS });
    let to = Path::new("/backup/journal");
    let made = back_up(&disk, Path::new(DIR), to).unwrap();
    assert_eq!((made.extent.segments, made.damaged_segments.len()), (3, 3), "{made:?}");
    disk.set_faults(NO_FAULTS);
    let options = JournalOptions { dir: to.to_owned(), ..large_options() };
    let (copy, mut reader, _) = try_open(&disk, &options).unwrap();
    let records = block_on_paused(drain(&copy, &mut reader));
    let lost = |seq: &u64| (5..=8).contains(&((seq - 1) % 16 + 1));
    assert_eq!(seqs(&records), (1..=40).filter(|seq| !lost(seq)).collect::<Vec<_>>());
}

#[test]
fn unreadable_tail_is_an_alarm_although_nothing_tells_that_it_was_synced() {
    let disk = SimDisk::default();
    let (journal, ..) = try_open(&disk, &large_options()).unwrap();
    block_on(async {
        for seq in 1..=8 {
            journal.append(&[seq; RECORD_BYTES], 1).await.unwrap();
        }
    });
    // The process is killed: the checkpoint is that of its start.
    let disk = disk.process_crash();
    disk.set_faults(Faults { unreadable: Some(2 * PAGE..3 * PAGE), ..NO_FAULTS });
    let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
    assert_eq!(recovery.damage[0].seqs, 5..6, "{recovery:?}");
    disk.set_faults(NO_FAULTS);
    block_on(journal.append(&[9; RECORD_BYTES], 1)).unwrap();
    let records = block_on_paused(drain(&journal, &mut reader));
    assert_eq!(seqs(&records), [1, 2, 3, 4, 6]);
}

#[test]
fn last_segment_that_cannot_be_opened_is_an_alarm_and_its_seqs_are_not_given_again() {
    // The last one has the records 33 to 40. The checkpoint knows so after a clean stop, and not after a kill.
    for (disk, is_known) in [(written(40), true), (killed(40), false)] {
        let path = disk.files(".segment")[2].0.clone();
        disk.set_faults(Faults { unopenable: Some(path.clone()), ..NO_FAULTS });
        let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
        let metrics = JournalMetrics::register(&Registry::new()).unwrap();
        let opened = crate::journal::local::open(&large_options(), &fs, &metrics).unwrap();
        let Opened { journal, mut reader, recovery, .. } = opened;
        let [damage] = &*recovery.damage else { panic!("{recovery:?}") };
        assert_eq!((&damage.file, damage.seqs.start), (&path, 33));
        let lost = metrics.hookgate_journal_lost_records_total.get();
        assert!(lost == 8 || (!is_known && (1..8).contains(&lost)), "{lost}");
        let moved = disk.files("").into_iter().map(|(path, _)| path);
        assert_eq!(moved.filter(|path| Some(path) == damage.quarantined.as_ref()).count(), 1);
        let seq = block_on(journal.append(&[9; RECORD_BYTES], 1)).unwrap().get();
        // No more than these fit.
        assert!(seq > 32 + large_options().segment_bytes / 28, "{seq}");
        let records = block_on_paused(drain(&journal, &mut reader));
        assert_eq!(seqs(&records), (1..=32).chain([seq]).collect::<Vec<_>>());
        assert_eq!(metrics.hookgate_journal_lost_records_total.get(), lost, "counted once");
    }
}

#[test]
fn what_damage_has_cost_does_not_wait_for_ever() {
    let disk = written(40);
    disk.set_faults(Faults { unreadable: Some(2 * PAGE..3 * PAGE), ..NO_FAULTS });
    let (journal, mut reader, _) = try_open(&disk, &large_options()).unwrap();
    journal.close();
    block_on_paused(async {
        while let Some(batch) = reader.next_batch(3, 100_000).await.unwrap() {
            batch.ack.ack();
        }
    });
    assert_eq!(journal.status().items_waiting, 0);
}

#[test]
fn unreadable_header_costs_no_record() {
    let disk = written(40);
    disk.set_faults(Faults { unreadable: Some(0..PAGE), ..NO_FAULTS });
    let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
    assert_eq!(block_on_paused(drain(&journal, &mut reader)).len(), 40);
    assert!(recovery.damage.iter().all(|damage| damage.seqs.is_empty()), "{recovery:?}");
}

#[test]
fn read_that_fails_once_costs_nothing() {
    for one_in in 2..20 {
        let disk = written(40);
        disk.set_faults(Faults { flaky_reads: Some(one_in), ..NO_FAULTS });
        let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
        assert_eq!(block_on_paused(drain(&journal, &mut reader)).len(), 40, "one in {one_in}");
        assert_eq!(recovery.damage, []);
    }
}

#[test]
fn quarantine_on_a_full_disk_ends_neither_start_nor_run() {
    let disk = written(40);
    disk.set_faults(Faults { unreadable: Some(2 * PAGE..3 * PAGE), no_space: true, ..NO_FAULTS });
    let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
    assert_eq!(block_on_paused(drain(&journal, &mut reader)).len(), 28);
    assert_eq!(recovery.damage.last().unwrap().quarantined, None);
}

#[test]
fn quarantine_is_bounded_in_files_and_bytes() {
    let in_files: Vec<_> = (0..1_000).map(|number| (number, 0)).collect();
    for copies in [in_files, vec![(0, 256 * 1024 * 1024)]] {
        let disk = written(40);
        for (name, bytes) in copies {
            disk.put(&Path::new(DIR).join(format!("damaged/{name}")), Some(vec![0; bytes]));
        }
        disk.set_faults(Faults { unreadable: Some(2 * PAGE..3 * PAGE), ..NO_FAULTS });
        let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
        assert_eq!(block_on_paused(drain(&journal, &mut reader)).len(), 28);
        assert_eq!(recovery.damage.last().unwrap().quarantined, None);
    }
}

#[test]
fn segment_that_is_gone_is_skipped() {
    let disk = written(40);
    let (journal, mut reader, _) = try_open(&disk, &large_options()).unwrap();
    disk.put(&disk.files(".segment")[1].0, None);
    let records = block_on_paused(drain(&journal, &mut reader));
    assert_eq!(seqs(&records), (1..=16).chain(33..=40).collect::<Vec<_>>());
}

#[test]
fn unreadable_checkpoint_is_replaced_for_good() {
    let disk = written(40);
    for (path, _) in disk.files(".segment").into_iter().chain(disk.files("spare")) {
        disk.put(&path, None);
    }
    // Nothing tells the old id, so a new one is drawn.
    disk.set_faults(Faults { unreadable_checkpoint: true, ..NO_FAULTS });
    let (journal, ..) = try_open(&disk, &large_options()).unwrap();
    block_on(journal.append(&[1; RECORD_BYTES], 1)).unwrap();
    drop(journal);
    let disk = disk.power_cycle(|| false);
    let (_, _, recovery) = try_open(&disk, &large_options()).unwrap();
    assert_eq!(recovery.records, 1);
    assert_eq!(recovery.unknown_files, Vec::<PathBuf>::new());
}
