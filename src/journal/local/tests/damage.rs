//! Recovery from files that are truncated, corrupted, missing or unknown.

use std::path::Path;

use super::sim_disk::SimDisk;
use super::*;
use crate::journal::local::Damage;
use crate::journal::local::format::Checkpoint;

/// Segments with the records 1 to 4, 5 to 8 and 9 to 12, each record in a group of its own.
fn three_segments() -> SimDisk {
    let disk = SimDisk::default();
    for first_seq in [1, 5, 9] {
        put(&disk, segment(first_seq, &[1, 1, 1, 1]));
    }
    disk
}

fn put(disk: &SimDisk, (path, bytes): (PathBuf, Vec<u8>)) {
    disk.put(&path, Some(bytes));
}

fn put_checkpoint(disk: &SimDisk, acked: u64, synced: u64) {
    let checkpoint = Checkpoint { id: ID, version: 1, acked, synced };
    disk.put(&Path::new(DIR).join("checkpoint"), Some(checkpoint.encode()));
}

fn all_but(end: u64, lost: &[u64]) -> Vec<u64> {
    (1..=end).filter(|seq| !lost.contains(seq)).collect()
}

fn lost_seqs(recovery: &RecoveryReport) -> Vec<(u64, u64)> {
    recovery.damage.iter().map(|damage| (damage.seqs.start, damage.seqs.end)).collect()
}

#[test]
fn tail_segment_cut_at_any_offset_leaves_a_prefix() {
    let (path, whole) = segment(9, &[1, 2, 1]);
    for length in 0..frame_range(9, 12).end {
        let disk = three_segments();
        disk.put(&path, Some(whole[..length].to_vec()));
        let whole_records =
            (9..=12).filter(|seq| frame_range(9, *seq).end <= length).count() as u64;
        let (seqs, recovery) = recover(&disk);
        assert_eq!(seqs, all_but(8 + whole_records, &[]), "cut at {length}");
        let header_is_cut = length < 32;
        assert_eq!(recovery.damage.len(), usize::from(header_is_cut), "cut at {length}");
        let again = recover(&disk);
        assert_eq!(again, (seqs, RecoveryReport { torn_bytes: 0, damage: vec![], ..recovery }));
    }
}

#[test]
fn any_bit_flipped_in_the_tail_record_cuts_that_record() {
    let (path, whole) = segment(9, &[1, 2, 1]);
    let tail = frame_range(9, 12);
    for bit in tail.start * 8..tail.end * 8 {
        let disk = three_segments();
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        disk.put(&path, Some(flipped));
        let (seqs, recovery) = recover(&disk);
        assert_eq!(seqs, all_but(11, &[]), "bit {bit}");
        assert_eq!(recovery.damage, []);
        // If the flip makes the last written byte zero, that byte is not counted.
        assert!(recovery.torn_bytes + 1 >= tail.len() as u64);
    }
}

#[test]
fn any_byte_flipped_before_the_tail_costs_its_record_and_no_other() {
    let (path, whole) = segment(5, &[1, 3]);
    for lost in 5..=8 {
        for at in frame_range(5, lost) {
            let disk = three_segments();
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            disk.put(&path, Some(flipped.clone()));
            let (seqs, recovery) = recover(&disk);
            assert_eq!(seqs, all_but(12, &[lost]), "byte {at}");
            let [damage] = &*recovery.damage else { panic!("{:?}", recovery.damage) };
            assert_eq!(damage.file, path);
            let range = frame_range(5, lost);
            assert_eq!(damage.offset, range.start as u64);
            assert_eq!(damage.seqs, lost..lost + 1);
            let copies = disk.files(&format!("-{}", range.start));
            assert_eq!(Some(&copies[0].0), damage.quarantined.as_ref());
            assert_eq!(copies[0].1, flipped[range], "byte {at}");
        }
    }
}

#[test]
fn bad_record_with_a_later_group_behind_it_is_damage_and_not_the_tail() {
    let (path, mut bytes) = segment(1, &[1, 2, 1]);
    bytes[frame_range(1, 2).start] ^= 1;
    let disk = SimDisk::default();
    disk.put(&path, Some(bytes));
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, [1, 3, 4]);
    assert_eq!(recovery.damage[0].seqs, 2..3);
}

#[test]
fn records_of_a_torn_group_behind_its_first_bad_record_are_lost() {
    let (path, mut bytes) = segment(1, &[1, 4]);
    bytes[frame_range(1, 3).start] ^= 1;
    let disk = SimDisk::default();
    disk.put(&path, Some(bytes));
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, [1, 2]);
    assert_eq!(recovery.damage, []);
    assert!(recovery.torn_bytes > 0);

    let (journal, mut reader, _) = open(&disk);
    let seq = block_on(journal.append(text_of(3).as_bytes(), 1)).unwrap();
    assert_eq!(seq.get(), 3);
    assert_eq!(block_on(drain(&journal, &mut reader)).len(), 3);
    journal.shut_down();
    assert_eq!(recover(&disk).0, [1, 2, 3]);
}

#[test]
fn tail_that_the_checkpoint_knows_to_be_synced_is_damage() {
    let disk = SimDisk::default();
    let (path, mut bytes) = segment(1, &[1, 1, 1]);
    bytes[frame_range(1, 3).end - 1] ^= 1;
    disk.put(&path, Some(bytes));
    put_checkpoint(&disk, 1, 4);
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, [1, 2]);
    assert_eq!(recovery.damage[0].seqs, 3..4);
    assert_eq!(recovery.damage[0].offset, frame_range(1, 3).start as u64);

    let (journal, ..) = open(&disk);
    let seq = block_on(journal.append(b"new", 1)).unwrap();
    assert_eq!(seq.get(), 4, "the seq of a lost record is not given to another");
}

#[test]
fn missing_segment_is_reported_and_skipped() {
    for (missing, lost) in [(1, vec![1, 2, 3, 4]), (5, vec![5, 6, 7, 8])] {
        let disk = three_segments();
        put_checkpoint(&disk, 1, 13);
        disk.put(&segment(missing, &[]).0, None);
        let (seqs, recovery) = recover(&disk);
        assert_eq!(seqs, all_but(12, &lost));
        assert_eq!(lost_seqs(&recovery), [(missing, missing + 4)]);
    }
    let disk = three_segments();
    put_checkpoint(&disk, 1, 13);
    disk.put(&segment(9, &[]).0, None);
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, all_but(8, &[]));
    assert_eq!(lost_seqs(&recovery), [(9, 13)]);
}

#[test]
fn damaged_segment_header_costs_no_record() {
    let disk = three_segments();
    let (path, mut bytes) = segment(5, &[1, 1, 1, 1]);
    bytes[3] ^= 1;
    disk.put(&path, Some(bytes));
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, all_but(12, &[]));
    let [Damage { offset: 0, seqs, .. }] = &*recovery.damage else { panic!("{recovery:?}") };
    assert!(seqs.is_empty());
}

#[test]
fn unknown_files_are_reported_and_left_alone() {
    let disk = three_segments();
    put_checkpoint(&disk, 1, 13);
    let unknown_files = ["notes.txt", "00000000000000000013-0000000000000bad.segment"];
    for name in unknown_files {
        disk.put(&Path::new(DIR).join(name), Some(b"precious".to_vec()));
    }
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, all_but(12, &[]));
    assert_eq!(recovery.damage, []);
    assert_eq!(recovery.unknown_files.len(), 2);
    for path in &recovery.unknown_files {
        assert_eq!(disk.files(path.to_str().unwrap())[0].1, b"precious");
    }
}

#[test]
fn segment_under_the_name_of_another_is_quarantined() {
    let disk = three_segments();
    put_checkpoint(&disk, 1, 13);
    let impostor = segment(13, &[]).0;
    disk.put(&impostor, Some(segment(5, &[1, 1, 1, 1]).1));
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, all_but(12, &[]));
    assert_eq!(recovery.unknown_files, std::slice::from_ref(&impostor));
    let name = format!("damaged/{}", impostor.file_name().unwrap().to_str().unwrap());
    assert_eq!(disk.files(&name).len(), 1);
}

#[test]
fn segment_of_a_newer_format_stops_the_start() {
    let disk = three_segments();
    let (path, mut bytes) = segment(9, &[1]);
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    disk.put(&path, Some(bytes));
    let error = try_open(&disk, &options(Path::new(DIR))).err().unwrap();
    assert!(matches!(error, JournalError::Format { version: 2, .. }), "{error}");
}

#[test]
fn leftovers_in_a_reused_segment_are_never_records() {
    let (path, mut bytes) = segment(101, &[1, 1]);
    let stale = segment(1, &[1; 20]).1;
    // At every alignment: behind the tail is an older record, or a part of one.
    for shift in 0..60 {
        let tail = frame_range(101, 102).end;
        let space = bytes.len() - tail;
        let from = usize::try_from(SEGMENT_HEADER_BYTES).unwrap() + shift;
        bytes[tail..].fill(0);
        let stale = &stale[from..stale.len().min(from + space)];
        bytes[tail..tail + stale.len()].copy_from_slice(stale);
        let disk = SimDisk::default();
        disk.put(&path, Some(bytes.clone()));
        let (seqs, recovery) = recover(&disk);
        assert_eq!(seqs, [101, 102]);
        assert_eq!(recovery.damage, []);
    }
}

#[test]
fn payload_that_imitates_a_frame_does_not_become_a_record() {
    let mut imitation = frame(2, 0, b"not appended");
    // A tenant knows everything about a frame except the journal's id.
    finalize_frame(&mut imitation, JournalId(1), 2, 0);
    let (path, mut bytes) = segment(1, &[]);
    let start = usize::try_from(SEGMENT_HEADER_BYTES).unwrap();
    let mut frames = frame(1, 0, &imitation);
    frames[0] ^= 1;
    frames.extend(frame(2, 0, text_of(2).as_bytes()));
    bytes[start..start + frames.len()].copy_from_slice(&frames);
    let disk = SimDisk::default();
    disk.put(&path, Some(bytes));
    let (seqs, recovery) = recover(&disk);
    assert_eq!(seqs, [2]);
    assert_eq!(recovery.damage[0].seqs, 1..2);
}

#[test]
fn all_records_are_read_again_without_a_checkpoint() {
    let disk = three_segments();
    put_checkpoint(&disk, 6, 13);
    assert_eq!(recover(&disk.copy()).0, (6..=12).collect::<Vec<_>>());
    let path = Path::new(DIR).join("checkpoint");
    disk.put(&path, Some(vec![0xff; 8192]));
    assert_eq!(recover(&disk).0, all_but(12, &[]));
}

#[test]
fn segment_cut_before_the_tail_costs_only_what_was_cut_off() {
    let (path, whole) = segment(5, &[1, 1, 1, 1]);
    for length in 32..frame_range(5, 8).end {
        let disk = three_segments();
        disk.put(&path, Some(whole[..length].to_vec()));
        let lost: Vec<_> = (5..=8).filter(|seq| frame_range(5, *seq).end > length).collect();
        let (seqs, recovery) = recover(&disk);
        assert_eq!(seqs, all_but(12, &lost), "cut at {length}");
        assert_eq!(lost_seqs(&recovery), [(lost[0], 9)], "cut at {length}");
    }
}

#[test]
fn damage_that_occurs_while_the_journal_is_open_is_skipped() {
    let disk = SimDisk::default();
    let (journal, mut reader, _) = open(&disk);
    block_on(async {
        for seq in 1..=4 {
            journal.append(text_of(seq).as_bytes(), 1).await.unwrap();
        }
        let (path, _) = disk.files(".segment").remove(0);
        for lost in [2, 4] {
            disk.flip(&path, frame_range(1, lost).end - 1);
        }
        let seqs: Vec<_> =
            drain(&journal, &mut reader).await.iter().map(|record| record.seq.get()).collect();
        assert_eq!(seqs, [1, 3]);
    });
    assert_eq!(disk.files(&format!("-{}", frame_range(1, 2).start)).len(), 1, "quarantined");
}
