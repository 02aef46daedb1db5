//! Holds files to the house's layout: short files, paths that climb one module, one type per name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{files_below, module_of, root, sources};

/// Lines in a file at most. A longer file holds more than one idea.
const LINES_MAX: usize = 400;

/// Files that are longer. The list only shrinks: split a file rather than add it.
const LONG_FILES: &[&str] = &[
    "tests/it/cli.rs",
    "tests/it/http/tenancy.rs",
    "tests/it/store/auditing.rs",
    "tests/it/store/replays.rs",
    "tests/it/store/tenancy.rs",
];

/// Types that share a name with one of another folder. The list only shrinks: rename one of the two.
const SHARED_NAMES: &[&str] = &[
    "Batch",
    "Delivery",
    "Entry",
    "Label",
    "Limits",
    "ReplayedEvent",
    "Shared",
    "Source",
    "Step",
    "Store",
];

#[test]
fn no_file_is_longer_than_the_ceiling() {
    let mut long = BTreeSet::new();
    for folder in ["src", "tests", "benches"] {
        for file in files_below(&root().join(folder)) {
            let is_rust = file.extension().is_some_and(|extension| extension == "rs");
            if is_rust && fs::read_to_string(&file).unwrap().lines().count() > LINES_MAX {
                long.insert(relative(&file));
            }
        }
    }
    let allowed: BTreeSet<String> = LONG_FILES.iter().map(|&file| file.to_owned()).collect();
    let too_long: Vec<_> = long.difference(&allowed).collect();
    assert!(too_long.is_empty(), "longer than {LINES_MAX} lines: {too_long:#?}");
}

#[test]
fn no_path_climbs_two_modules() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let climbs = code.replace("pub(in super::super)", "").contains("super::super::");
        assert!(!climbs, "{}: write crate::… for super::super::…", relative(&file));
    }
}

#[test]
fn no_two_folders_have_a_type_of_one_name() {
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // A binary's types are its own.
    for file in sources().iter().filter(|file| module_of(file) != "bin") {
        let folder = module_of(file);
        let text = fs::read_to_string(file).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        for name in types(code) {
            folders.entry(name).or_default().insert(folder.clone());
        }
    }
    folders.retain(|_, folders| folders.len() > 1);
    let shared: BTreeSet<&str> = folders.keys().map(String::as_str).collect();
    let allowed: BTreeSet<&str> = SHARED_NAMES.iter().copied().collect();
    let new: Vec<_> = shared.difference(&allowed).map(|name| (name, &folders[*name])).collect();
    assert!(new.is_empty(), "{new:#?}");
}

/// The names of the types and traits that a text declares at its top level.
fn types(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in code.lines().filter(|line| !line.starts_with([' ', '/'])) {
        let mut words = line.split([' ', '<', '(', ';', '{', ':']).filter(|word| !word.is_empty());
        if words.any(|word| matches!(word, "struct" | "enum" | "trait" | "type"))
            && let Some(name) = words.next()
        {
            found.insert(name.to_owned());
        }
    }
    found
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}
