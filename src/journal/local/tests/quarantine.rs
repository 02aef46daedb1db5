//! What the quarantine tells operators.

use std::path::Path;

use bytes::Bytes;

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::journal::local::QuarantineEntry;
use crate::journal::local::format::segment_name;
use crate::journal::local::quarantine::{LocalQuarantine, Quarantine};
use crate::journal::{Place, Seq};

#[test]
fn contents_are_copies_with_what_this_run_knows_of_them() {
    let (dir, id) = (Path::new(DIR), ID);
    let fs: Arc<dyn FileSystem> = Arc::new(SimDisk::default());
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let quarantine = Quarantine::new(&fs, dir, &metrics);
    let (first, second) = (segment_name(1, id), segment_name(9, id));
    assert!(quarantine.record(&format!("{second}-64"), b"1234").unwrap().is_some());
    quarantine.damage(&first, None, 32..96, 1..3).unwrap();
    quarantine.damage(&first, None, 32..96, 1..2).unwrap();
    let entry = |file: Option<String>, segment: &str, offset, bytes, seqs| QuarantineEntry {
        file,
        segment: Some(segment.to_owned()),
        offset: Some(offset),
        bytes,
        seqs,
    };
    let expected = [
        entry(None, &first, 32, 64, Some(1..3)),
        entry(Some(format!("{second}-64")), &second, 64, 4, None),
    ];
    let contents = quarantine.contents(10).unwrap();
    assert_eq!((contents.files, contents.bytes, contents.has_more), (1, 4, false));
    assert_eq!(contents.entries, expected);
    let contents = quarantine.contents(1).unwrap();
    assert_eq!((&contents.entries[..], contents.has_more), (&expected[..1], true));
}

#[test]
fn quarantine_that_cannot_be_listed_is_not_empty() {
    let disk = SimDisk::default();
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let quarantine = Quarantine::new(&fs, Path::new(DIR), &metrics);
    assert_eq!(quarantine.contents(10).unwrap().files, 0);
    disk.set_faults(Faults { unlisted_quarantine: true, ..NO_FAULTS });
    assert_eq!(quarantine.contents(10).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(quarantine.record("event-1", b"1234").unwrap(), None, "it might be full");
    disk.set_faults(NO_FAULTS);
    assert!(quarantine.record("event-1", b"1234").unwrap().is_some());
    assert_eq!(quarantine.contents(10).unwrap().files, 1);
}

#[test]
fn copy_that_a_kill_left_unfinished_is_none_and_is_made_anew() {
    let disk = SimDisk::default();
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let quarantine = |disk: &SimDisk| {
        let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
        Quarantine::new(&fs, Path::new(DIR), &metrics)
    };
    let copies = |disk: &SimDisk| -> Vec<_> {
        disk.files("event-1").into_iter().map(|(_, bytes)| bytes).collect()
    };
    // Short calls, so that it can end between any two bytes.
    let faults = Faults { short: Some(1), ..NO_FAULTS };
    disk.set_faults(faults.clone());
    assert!(quarantine(&disk).record("event-1", b"1234").unwrap().is_some());
    let calls = disk.calls();
    for power_fails_at in 1..=calls {
        let disk = SimDisk::default();
        disk.set_faults(Faults { power_fails_at: Some(power_fails_at), ..faults.clone() });
        assert_eq!(quarantine(&disk).record("event-1", b"1234").unwrap(), None);
        for next in [disk.process_crash(), disk.power_cycle(|| true), disk.power_cycle(|| false)] {
            let quarantine = quarantine(&next);
            let held = quarantine.contents(10).unwrap().files;
            assert_eq!(copies(&next), vec![b"1234".to_vec(); usize::try_from(held).unwrap()]);
            assert!(quarantine.record("event-1", b"1234").unwrap().is_some());
            assert_eq!(copies(&next.power_cycle(|| false)), [b"1234"], "at {power_fails_at}");
            assert_eq!(quarantine.contents(10).unwrap().files, 1);
        }
    }
}

/// Its caller waits with the acknowledgement.
#[test]
fn record_without_a_file_descriptor_for_its_copy_is_not_reported_yet() {
    let disk = SimDisk::default();
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let quarantine = Arc::new(Quarantine::new(&fs, Path::new(DIR), &metrics));
    let undecodable = LocalQuarantine { quarantine: Arc::clone(&quarantine), id: ID };
    let place = Place { segment: 1, offset: 64 };
    let record = Record { seq: Seq(3), items: 1, payload: Bytes::from_static(b"?"), place };
    disk.set_no_descriptors(true);
    assert_eq!(undecodable.record(&record, "a trial").unwrap_err().raw_os_error(), Some(24));
    assert_eq!(undecodable.bytes("event-1", b"1").unwrap_err().raw_os_error(), Some(24));
    disk.set_no_descriptors(false);
    assert_eq!(quarantine.contents(10).unwrap().entries, []);
    undecodable.record(&record, "a trial").unwrap();
    assert_eq!(quarantine.contents(10).unwrap().files, 1);
    assert!(!quarantine.holds.is_held(1));
}

#[test]
fn undecodable_records_do_not_let_damage_be_counted_twice() {
    let fs: Arc<dyn FileSystem> = Arc::new(SimDisk::default());
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let quarantine = Arc::new(Quarantine::new(&fs, Path::new(DIR), &metrics));
    let segment = segment_name(1, ID);
    assert!(quarantine.damage(&segment, None, 32..96, 1..3).unwrap().is_some());
    let undecodable = LocalQuarantine { quarantine: Arc::clone(&quarantine), id: ID };
    for offset in 0..1_001 {
        let place = Place { segment: 1, offset };
        let (seq, payload) = (Seq(3 + offset), Bytes::from_static(b"?"));
        undecodable.record(&Record { seq, items: 1, payload, place }, "a trial").unwrap();
    }
    assert_eq!(quarantine.damage(&segment, None, 32..96, 1..3).unwrap(), None);
    assert_eq!(metrics.hookgate_journal_lost_records_total.get(), 2);
    // One of damage, 1,000 of records, and the copy of the first record, of which nothing else is known any more.
    assert_eq!(quarantine.contents(2_000).unwrap().entries.len(), 1_002);
}
