//! Holds the documentation to the code: every route is in it, and every link leads somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use hookgate::domain::DeadReason;
use hookgate::http::{Access, route_table};
use strum::VariantNames;

use super::{files_below, root};

#[test]
fn every_route_is_in_docs_api_with_the_key_it_takes_and_no_other() {
    let routes: BTreeSet<(String, String)> = route_table()
        .iter()
        .map(|route| (format!("{} {}", route.method, route.path), key_of(route.access)))
        .collect();
    let api = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let (_, table) = api.split_once("\n## Every route\n").unwrap();
    // Rows such as | `POST /a`, `POST /b` | `events:write` | what it does |
    let documented: BTreeSet<(String, String)> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .flat_map(|row| {
            let mut cells = row.split('|').skip(1).map(str::trim);
            let (routes, key) = (cells.next().unwrap(), cells.next().unwrap());
            let routes = routes.split('`').skip(1).step_by(2);
            routes.map(move |route| (route.to_owned(), key.to_owned()))
        })
        .collect();
    assert_eq!(routes, documented);
}

#[test]
fn filters_of_dead_letters_name_every_reason() {
    let api = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let row = api.lines().find(|line| line.starts_with("| `/api/dead-letters` |")).unwrap();
    let reasons = DeadReason::VARIANTS.iter().map(|reason| format!("`{reason}`"));
    let named = format!("`reason` ({})", reasons.collect::<Vec<_>>().join(", "));
    assert!(row.contains(&named), "{row} is without {named}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut broken = Vec::new();
    for file in documents() {
        let text = prose(&file);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let linked = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            let leads = linked.exists()
                && (heading.is_empty() || headings(&linked).contains(&heading.to_owned()));
            if !leads {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_path_that_documents_name_exists() {
    let folders = ["src/", "tests/", "docs/", "migrations/", "scripts/", "examples/", "benches/"];
    let mut missing = Vec::new();
    // The log names files as they were called at the time.
    for file in documents().into_iter().filter(|file| !file.ends_with("performance-log.md")) {
        for path in prose(&file).split('`').skip(1).step_by(2) {
            let is_path = folders.iter().any(|folder| path.starts_with(folder))
                && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
            if is_path && !path.contains("NNNN") && !root().join(path).exists() {
                missing.push(format!("{}: {path}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

fn key_of(access: Access) -> String {
    match access {
        Access::Tenant(Some(scope)) | Access::Operator(scope) => format!("`{}`", scope.as_str()),
        Access::Tenant(None) => "any tenant key".to_owned(),
        Access::Anyone => "none".to_owned(),
    }
}

/// The Markdown files at the root and under `docs/`.
fn documents() -> Vec<PathBuf> {
    let mut files = files_below(&root().join("docs"));
    files.extend(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files
}

/// A document without its code blocks.
fn prose(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.split("```").step_by(2).collect()
}

/// The anchors that GitHub makes of a document's headings.
fn headings(file: &Path) -> Vec<String> {
    let anchor = |heading: &str| -> String {
        let kept = heading.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    let text = prose(file);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}
