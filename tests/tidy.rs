//! Holds the code to the rules that no compiler knows: who may import whom, and that what is
//! documented is all there is.

#![expect(clippy::unwrap_used, reason = "a broken helper is a failed test")]

#[path = "tidy/circles.rs"]
mod circles;
#[path = "tidy/deploy.rs"]
mod deploy;
#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/generated.rs"]
mod generated;
#[path = "tidy/layout.rs"]
mod layout;
#[path = "tidy/settings.rs"]
mod settings;
#[path = "tidy/words.rs"]
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module, and the modules of the crate it may import. Arrows point down this list only.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &["domain"]),
    ("runtime", &["domain"]),
    ("telemetry", &["domain", "config", "runtime"]),
    ("store", &["domain", "config", "runtime", "telemetry"]),
    ("journal", &["domain", "config", "runtime", "telemetry"]),
    ("limit", &["domain", "config", "runtime", "telemetry"]),
    ("analytics", &["domain", "config", "runtime", "telemetry", "store"]),
    ("auth", &["domain", "config", "runtime", "telemetry", "store"]),
    ("delivery", &["domain", "config", "runtime", "telemetry", "store"]),
    ("ingest", &["domain", "config", "runtime", "telemetry", "store", "journal", "delivery"]),
    (
        "api",
        &[
            "domain",
            "config",
            "runtime",
            "telemetry",
            "store",
            "limit",
            "analytics",
            "auth",
            "delivery",
            "ingest",
        ],
    ),
    (
        "http",
        &[
            "domain",
            "config",
            "runtime",
            "telemetry",
            "store",
            "journal",
            "limit",
            "analytics",
            "auth",
            "delivery",
            "ingest",
            "api",
        ],
    ),
    (
        "app",
        &[
            "domain",
            "config",
            "runtime",
            "telemetry",
            "store",
            "journal",
            "limit",
            "analytics",
            "auth",
            "delivery",
            "ingest",
            "api",
            "http",
        ],
    ),
    // Beside the app: what its arguments and answers are made of, and what checks a signature.
    ("cli", &["app", "api", "config", "domain", "runtime", "telemetry", "auth", "delivery"]),
];

#[test]
fn modules_import_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for file in sources() {
        let module = module_of(&file);
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            // Programs use the library from outside.
            assert!(
                matches!(module.as_str(), "lib" | "main" | "bin"),
                "{module} is not in the table"
            );
            continue;
        };
        for import in imports(&fs::read_to_string(&file).unwrap()) {
            if import != module && !allowed.contains(&import.as_str()) {
                broken.push(format!("{} imports {import}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn only_the_app_names_a_backend() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        let names = text.contains("open_sqlite") || text.contains("connect_postgres");
        let may = module_of(&file) == "store" || file.ends_with("src/app/storage.rs");
        assert!(!names || may, "{} names a backend", file.display());
        let names = text.contains("journal::local::");
        let may = module_of(&file) == "journal" || file.ends_with("src/app/storage.rs");
        assert!(!names || may, "{} names a journal backend", file.display());
    }
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    for file in sources() {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} has no //! line at its head", file.display());
    }
}

#[test]
fn hot_paths_of_the_store_have_one_file_per_engine() {
    for folder in ["claims", "events", "maintenance", "outcomes"] {
        for engine in ["sqlite.rs", "postgres.rs"] {
            let file = root().join("src/store").join(folder).join(engine);
            assert!(file.exists(), "{} is missing", file.display());
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    files_below(&root().join("src"))
        .into_iter()
        .filter(|f| f.extension().is_some_and(|e| e == "rs"))
        .collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// The top-level module a file belongs to: `src/store/sqlite/mod.rs` to `store`.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of the crate that a source text names, as `crate::module` or in `crate::{…}`.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let word = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let mut found = BTreeSet::new();
    for (place, _) in code.match_indices("crate::") {
        let rest = &code[place + "crate::".len()..];
        assert!(!rest.starts_with('{'), "write one `use crate::module` a line, not `crate::{{`");
        found.insert(word(rest));
    }
    found
}

#[test]
fn import_check_sees_imports() {
    let text = "use crate::store::Store;\n// crate::http\nlet x = crate::domain::y();";
    assert_eq!(imports(text), BTreeSet::from(["store".to_owned(), "domain".to_owned()]));
}
