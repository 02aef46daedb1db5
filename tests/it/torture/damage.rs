//! A journal that was damaged while nobody ran.

use std::fs::{self, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ledger::Ledger;
use super::load::Post;
use super::station::Station;
use crate::support::postgres;

const EVENTS: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn damage_costs_what_it_hit_and_is_reported_on_sqlite() {
    damaged_journal(Station::on_sqlite(&[HASTE]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_costs_what_it_hit_and_is_reported_on_postgresql() {
    let url = postgres::fresh_database().await;
    damaged_journal(Station::on_postgres(&url, &[HASTE]).await).await;
}

/// A stop does not wait long for a store that is away.
const HASTE: (&str, &str) = ("SHUTDOWN_TIMEOUT", "100ms");

async fn damaged_journal(mut station: Station) {
    let ledger = Ledger::new();
    let mut sender = station.sender();
    let hold = station.database.hold().await;
    for _ in 0..EVENTS {
        Post::one(ledger.number(1), false, 100).send(&mut sender, &ledger).await;
    }
    station.stop().await;
    hold.release().await;
    assert!(station.database.events().await.is_empty(), "the store was not held away");

    let journal = station.files().join("journal");
    let victim = EVENTS / 2;
    let (segment, offset) = find(&journal, &format!(r#"{{"n":{victim},"#));
    let file = OpenOptions::new().read(true).write(true).open(&segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();

    station.start_again().await;
    station.drained().await;
    let stored = station.database.events().await;
    assert_eq!(ledger.missing(&stored), [victim]);
    let verdict = ledger.settle(&stored);
    println!("damage on {}: {verdict}", station.database.name());
    assert_eq!((verdict.lost, verdict.duplicated), (1, 0));

    let log = station.stop().await;
    let (reported, copy) = report(&log);
    assert_eq!(reported.0, segment);
    assert!(reported.1.contains(&offset), "byte {offset} is not in {:?}", reported.1);
    let copy = fs::read(copy).unwrap();
    assert!(contains(&copy, b"torture.test"), "the record was not quarantined");
    assert_eq!(copy.len() as u64, reported.1.end - reported.1.start);
}

/// The file and the offset at which the journal holds `text`.
fn find(journal: &Path, text: &str) -> (PathBuf, u64) {
    let paths = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.extension().is_some_and(|name| name == "segment")) {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
        if let Some(at) = at {
            return (path, at as u64);
        }
    }
    panic!("no segment holds {text}");
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// The damage in the log: the file, the bytes, and their copy. Recovery logs it, and so does the reader when it skips
/// the damage.
fn report(log: &[String]) -> ((PathBuf, Range<u64>), PathBuf) {
    let events = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told: Vec<Value> = events.filter(|event| event["file"].is_string()).collect();
    let first = told.first().unwrap_or_else(|| panic!("no report of damage: {log:#?}"));
    for again in &told {
        let same = |name: &str| again[name] == first[name];
        assert!(same("file") && same("offset") && same("bytes"), "other damage: {again}");
        assert_eq!(again["level"], "ERROR", "{again}");
    }
    let offset = first["offset"].as_u64().unwrap();
    let bytes = offset..offset + first["bytes"].as_u64().unwrap();
    let copy = first["quarantined"].as_str().unwrap();
    let copy = copy.trim_start_matches("Some(\"").trim_end_matches("\")");
    ((first["file"].as_str().unwrap().into(), bytes), copy.into())
}
