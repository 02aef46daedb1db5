//! What the quarantine tells operators.

use std::path::Path;

use super::sim_disk::SimDisk;
use super::*;
use crate::journal::local::QuarantineEntry;
use crate::journal::local::format::segment_name;
use crate::journal::local::quarantine::Quarantine;

#[test]
fn contents_are_copies_with_what_this_run_knows_of_them() {
    let (dir, id) = (Path::new(DIR), ID);
    let fs: Arc<dyn FileSystem> = Arc::new(SimDisk::default());
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let quarantine = Quarantine::new(&fs, dir, &metrics);
    let (first, second) = (segment_name(1, id), segment_name(9, id));
    assert!(quarantine.record(&format!("{second}-64"), b"1234").is_some());
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
    let contents = quarantine.contents(10);
    assert_eq!((contents.files, contents.bytes, contents.has_more), (1, 4, false));
    assert_eq!(contents.entries, expected);
    let contents = quarantine.contents(1);
    assert_eq!((&contents.entries[..], contents.has_more), (&expected[..1], true));
}
