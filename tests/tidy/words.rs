//! Keeps private words out of what people read: the house uses the field's terms (docs/glossary.md).

use std::fs;
use std::path::{Path, PathBuf};

use super::{files_below, root, sources};

/// A private word or phrase, in lower case, and what to write instead.
const PRIVATE_WORDS: &[(&str, &str)] = &[
    ("at the least", "at least"),
    ("at the most", "at most"),
    ("give way", "yield"),
    ("gives way", "yields"),
    ("hunger", "claim demand"),
    ("is no http", "is not valid HTTP"),
    ("is no json", "is not valid JSON"),
    ("keeper", "segment manager"),
    ("kept aside", "quarantined"),
    ("letting go", "eviction"),
    ("passage", "permit"),
    ("pulse", "heartbeat"),
    ("sated", "idle"),
    ("taken up", "resumed"),
    ("turn red", "fail"),
    ("twin", "redelivery"),
];

#[test]
fn no_private_word_comes_back() {
    let mut found = Vec::new();
    for file in sources().into_iter().chain(documents()) {
        let text = fs::read_to_string(&file).unwrap();
        let is_rust = file.extension().is_some_and(|extension| extension == "rs");
        for (number, line) in (1..).zip(text.lines()) {
            let read = if is_rust { prose(line) } else { line.to_owned() };
            for (word, better) in PRIVATE_WORDS.iter().filter(|(word, _)| contains(&read, word)) {
                let file = file.strip_prefix(root()).unwrap().display();
                found.push(format!("{file}:{number}: \"{word}\", write \"{better}\""));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn word_check_reads_comments_and_texts_only() {
    assert!(contains(&prose("/// A twin."), "twin"));
    assert!(contains(&prose("let x = \"At the most\";"), "at the most"));
    assert!(!contains(&prose("let twin = twin();"), "twin"));
    assert!(!contains("twinning", "twin"));
}

/// The comment and the string literals of a line of code.
fn prose(line: &str) -> String {
    match line.split_once("//") {
        Some((_, comment)) => comment.to_owned(),
        None => line.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" "),
    }
}

/// Whether a text has a word, or a phrase, in any case, not as a part of a longer word.
fn contains(text: &str, word: &str) -> bool {
    let text = text.to_lowercase();
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        [before, after].into_iter().flatten().all(|c| !c.is_alphanumeric())
    })
}

/// The documents that contributors, operators and tenants read. The performance log and the list of changes
/// quote earlier names.
fn documents() -> Vec<PathBuf> {
    let mut files = files_below(&root().join("docs"));
    files.extend(fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.extension().is_some_and(|e| e == "md") && !is_history(file));
    files.push(root().join(".env.example"));
    files
}

fn is_history(file: &Path) -> bool {
    file.ends_with("CHANGELOG.md") || file.ends_with("docs/performance-log.md")
}
