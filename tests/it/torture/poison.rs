//! Events that the store rejects although the server accepted them.

use serde_json::Value;

use super::ledger::Ledger;
use super::load::Post;
use super::station::Station;
use crate::support::postgres;

const NEIGHBOURS: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn event_that_sqlite_refuses_is_a_dead_letter_and_blocks_nobody() {
    let station = Station::on_sqlite(&[]).await;
    let trap = "CREATE TRIGGER trap BEFORE INSERT ON events WHEN NEW.account_id = 'poison' \
                BEGIN SELECT RAISE(ABORT, 'no poison here'); END";
    station.database.execute(trap).await;
    poisoned_batch(station, "no poison here").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_that_postgresql_refuses_is_a_dead_letter_and_blocks_nobody() {
    let url = postgres::fresh_database().await;
    let station = Station::on_postgres(&url, &[]).await;
    let trap = "ALTER TABLE events ADD CONSTRAINT no_poison_here \
                CHECK (account_id IS DISTINCT FROM 'poison')";
    station.database.execute(trap).await;
    poisoned_batch(station, "no_poison_here").await;
}

async fn poisoned_batch(mut station: Station, reason: &str) {
    let ledger = Ledger::new();
    let mut sender = station.sender();
    let mut batch = Post::many(ledger.number(NEIGHBOURS), false, 10);
    let first = batch.poison(NEIGHBOURS / 2);
    batch.send(&mut sender, &ledger).await;
    let mut lone = Post::one(ledger.number(1), false, 10);
    let second = lone.poison(0);
    lone.send(&mut sender, &ledger).await;
    Post::one(ledger.number(1), false, 10).send(&mut sender, &ledger).await;

    station.drained().await;
    let stored = station.database.events().await;
    let mut missing = ledger.missing(&stored);
    missing.sort_unstable();
    assert_eq!(missing, [first, second], "neighbours are stored, and nothing else is missing");
    let (_, letters): (_, Value) = station.get("/api/dead-letters").await;
    let letters = letters["data"].as_array().unwrap();
    assert_eq!(letters.len(), 2, "{letters:?}");
    let mut ids = [first, second].map(|number| ledger.id_of(number).to_string());
    ids.sort_unstable();
    let mut dead: Vec<_> = letters.iter().map(|letter| &letter["event_id"]).collect();
    dead.sort_unstable_by_key(|id| id.as_str());
    assert_eq!(dead, ids.iter().collect::<Vec<_>>());
    for letter in letters {
        assert_eq!(letter["reason"], "unstorable", "{letter}");
        assert!(letter["detail"].as_str().unwrap().contains(reason), "{letter}");
    }
    let verdict = ledger.settle(&stored);
    println!(
        "poison on {}: {verdict}, of them {} dead letters",
        station.database.name(),
        letters.len()
    );
    assert_eq!((verdict.lost, verdict.duplicated), (2, 0));
    station.stop().await;
}
