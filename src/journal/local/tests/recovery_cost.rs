//! What recovery reads, and what the checkpoint tells it.

use super::sim_disk::SimDisk;
use super::*;
use crate::journal::local::format::Checkpoint;

/// A segment of 64 KiB, so that its header is the smaller part.
fn large_options() -> JournalOptions {
    JournalOptions {
        segment_bytes: SEGMENT_HEADER_BYTES + 64 * 1024,
        bytes_max: 64 * 1024 * 1024,
        ..options(Path::new(DIR))
    }
}

/// A journal with so many whole segments that wait.
fn backlog(segments: usize) -> SimDisk {
    let disk = SimDisk::default();
    let (journal, ..) = try_open(&disk, &large_options()).unwrap();
    block_on(async {
        // Sixteen records fit into a segment, less their headers.
        for _ in 0..segments * 15 {
            journal.append(&[b'x'; 4096], 2).await.unwrap();
        }
    });
    journal.shut_down();
    disk.power_cycle(|| false)
}

#[test]
fn start_reads_the_last_segment_however_long_the_backlog_is() {
    for segments in [4, 16] {
        let disk = backlog(segments);
        let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
        let headers = (segments as u64 + 1) * SEGMENT_HEADER_BYTES;
        // The last segment is read to be checked, and its last group to be synced again.
        let read = disk.read_bytes() - headers;
        assert!(read < 200 * 1024, "{read} bytes of {segments} segments");
        let records = segments as u64 * 15;
        assert_eq!((recovery.records, recovery.items), (records, 2 * records));
        assert_eq!(journal.status().items_waiting, 2 * records);
        assert_eq!(block_on(drain(&journal, &mut reader)).len() as u64, records);
    }
}

#[test]
fn segment_whose_summary_was_lost_is_scanned() {
    let disk = backlog(4);
    for (path, mut bytes) in disk.files(".segment") {
        bytes[512..4096].fill(0);
        disk.put(&path, Some(bytes));
    }
    let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
    assert_eq!((recovery.records, recovery.items), (60, 120));
    assert_eq!(block_on(drain(&journal, &mut reader)).len(), 60);
}

#[test]
fn first_segment_is_read_behind_its_acknowledged_records() {
    let disk = backlog(4);
    let (journal, mut reader, _) = try_open(&disk, &large_options()).unwrap();
    block_on(read(&mut reader, 20)).ack.ack();
    journal.shut_down();
    let disk = disk.power_cycle(|| false);
    let (journal, mut reader, recovery) = try_open(&disk, &large_options()).unwrap();
    let records = block_on(drain(&journal, &mut reader));
    assert!(recovery.records < 60 && recovery.records == records.len() as u64);
    assert_eq!(recovery.items, 2 * recovery.records);
    assert_eq!(records[0].seq.get(), 61 - recovery.records);
}

#[test]
fn damaged_acknowledged_tail_of_a_left_segment_is_an_alarm_without_its_successor() {
    let disk = SimDisk::default();
    let (journal, ..) = open(&disk);
    block_on(async {
        // Two fit into a segment.
        for _ in 0..3 {
            journal.append(&[b'x'; 400], 1).await.unwrap();
        }
        // No record is stored, so nothing but the mark makes the checkpoint due.
        let marked = || {
            let checkpoints = disk.files("checkpoint");
            let slots = checkpoints[0].1.chunks(4096).filter_map(Checkpoint::decode);
            slots.map(|checkpoint| checkpoint.synced).max()
        };
        while marked() < Some(3) {
            std::thread::yield_now();
        }
    });
    let disk = disk.power_cycle(|| false);
    let segments = disk.files(".segment");
    disk.put(&segments[1].0, None);
    disk.flip(&segments[0].0, usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + 428 + 100);
    let (_, _, recovery) = open(&disk);
    assert_eq!(recovery.records, 1);
    assert_eq!(recovery.damage[0].seqs.start, 2, "{recovery:?}");
}

#[test]
fn damaged_tail_after_a_clean_stop_is_an_alarm() {
    let disk = SimDisk::default();
    let (journal, ..) = open(&disk);
    block_on(journal.append(text_of(1).as_bytes(), 1)).unwrap();
    journal.shut_down();
    let disk = disk.power_cycle(|| false);
    disk.flip(&disk.files(".segment")[0].0, frame_range(1, 1).end - 1);
    let (_, _, recovery) = open(&disk);
    assert_eq!(recovery.damage[0].seqs, 1..2);
}

#[test]
fn checkpoint_that_was_only_read_is_durable_before_anything_is_freed_by_it() {
    let disk = SimDisk::default();
    for first_seq in [1, 5, 9] {
        let (path, bytes) = segment(first_seq, &[1, 1, 1, 1]);
        disk.put(&path, Some(bytes));
    }
    let path = Path::new(DIR).join("checkpoint");
    let slot = |version, acked| Checkpoint { id: ID, version, acked, synced: 13 }.encode();
    let mut old = slot(2, 1);
    old.resize(8192, 0);
    disk.put(&path, Some(old));
    // A killed process has left a newer one in the page cache.
    disk.open(&path).unwrap().write_at(&slot(3, 9), 4096).unwrap();
    let (journal, mut reader, _) = open(&disk);
    assert_eq!(block_on(read(&mut reader, 1)).records[0].seq.get(), 9);
    while disk.files(".segment").len() > 1 {
        std::thread::yield_now();
    }
    let after_power_loss = disk.power_cycle(|| false);
    drop((journal, reader));
    assert_eq!(recover(&after_power_loss).0, [9, 10, 11, 12]);
}
