//! What the model of a disk promises, drawn many times.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use super::super::Dice;
use super::disk::{Disk, Number, ROOT};

const DRAWS: u64 = 300;

/// A disk with a file that has a stable name.
fn disk(seed: u64) -> (Disk, Number) {
    let mut disk = Disk::new(Dice(seed));
    let file = disk.add(ROOT, OsStr::new("file"), true, 0o600);
    disk.sync_names(ROOT);
    (disk, file)
}

/// The content of a file after a cut; `None` without the file.
fn left(disk: &mut Disk, seed: u64, name: &str) -> Option<Vec<u8>> {
    let mut left = disk.after_cut(&mut Dice(seed));
    let number = left.find(ROOT, OsStr::new(name))?;
    Some(left.node(number).unwrap().file.as_ref().unwrap().content.clone())
}

#[test]
fn synced_content_survives_and_what_was_written_after_it_may() {
    let mut seen = BTreeSet::new();
    for seed in 0..DRAWS {
        let (mut disk, file) = disk(seed);
        disk.write(file, 0, &[1; 8192]);
        disk.sync(file);
        disk.write(file, 4096, &[2; 8192]);
        let left = left(&mut disk, seed, "file").unwrap();
        assert_eq!(left[..4096], [1; 4096]);
        assert!(left[4096..8192].iter().all(|byte| [1, 2].contains(byte)));
        assert!((8192..=12_288).contains(&left.len()));
        seen.insert((left.len(), left[4096], left[4608], left[7680]));
    }
    assert!(seen.len() > 20, "old, new and torn: {}", seen.len());
}

#[test]
fn failed_sync_leaves_its_content_in_doubt_for_ever() {
    let lost = (0..DRAWS).filter(|seed| {
        let (mut disk, file) = disk(*seed);
        disk.write(file, 0, &[1; 512]);
        disk.fail_sync(file);
        disk.sync(file);
        left(&mut disk, *seed, "file").unwrap() != [1; 512]
    });
    assert!((1..usize::try_from(DRAWS).unwrap()).contains(&lost.count()));
}

#[test]
fn names_survive_in_their_order_and_all_of_a_synced_directory() {
    let mut seen = BTreeSet::new();
    for seed in 0..DRAWS {
        let (mut disk, _) = disk(seed);
        disk.add(ROOT, OsStr::new("first"), true, 0o600);
        disk.rename((ROOT, OsStr::new("first")), (ROOT, OsStr::new("second")));
        disk.remove(ROOT, OsStr::new("file"));
        let mut left = disk.after_cut(&mut Dice(seed));
        let names: Vec<_> = left.list(ROOT).into_iter().map(|(name, ..)| name).collect();
        seen.insert(names);
        disk = left;
        left = disk.after_cut(&mut Dice(seed + 1));
        assert_eq!(left.list(ROOT).len(), disk.list(ROOT).len(), "nothing is unsynced");
    }
    let all = [vec!["file"], vec!["file", "first"], vec!["file", "second"], vec!["second"]];
    let all: BTreeSet<Vec<OsString>> =
        all.into_iter().map(|names| names.into_iter().map(Into::into).collect()).collect();
    assert_eq!(seen, all);
}
