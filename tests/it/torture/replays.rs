//! Replays across `kill -9`.

use serde_json::{Value, json};

use super::station::{POLL_INTERVAL, Station};
use super::{Dice, Scale};
use crate::support::postgres;
use crate::support::receiver::{Answer, Receiver};

/// Several steps of a replay.
const EVENTS: usize = 4_000;

/// No retries: what fails is a dead letter at once.
const SETTINGS: [(&str, &str); 1] = [("RETRY_SCHEDULE", "none")];

const PLANNED: &str = "SELECT count(replay_of) FROM
    (SELECT replay_of FROM pending_deliveries UNION ALL SELECT replay_of FROM deliveries) d";
const REPEATED: &str = "SELECT count(DISTINCT replay_of) FROM
    (SELECT replay_of FROM pending_deliveries UNION ALL SELECT replay_of FROM deliveries) d";
const WAITING: &str = "SELECT count(*) FROM pending_deliveries";

#[tokio::test(flavor = "multi_thread")]
async fn replay_that_is_killed_repeats_each_dead_letter_once_on_sqlite() {
    killed(Station::on_sqlite(&SETTINGS).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_that_is_killed_repeats_each_dead_letter_once_on_postgresql() {
    let url = postgres::fresh_database().await;
    killed(Station::on_postgres(&url, &SETTINGS).await).await;
}

async fn killed(mut station: Station) {
    let test = format!("killed replay on {}", station.database.name());
    let mut dice = Dice::new(&test);
    let receiver = Receiver::start().await;
    // Refusals, so that nothing is put off by a breaker.
    receiver.answer(vec![Answer::status(400); EVENTS]);
    station.add_endpoint(&receiver).await;
    let batch: Vec<_> = (0..1_000).map(|n| json!({ "type": "a", "payload": n })).collect();
    for _ in 0..EVENTS / batch.len() {
        station.post("/api/events/batch", &json!(batch)).await;
    }
    let count = i64::try_from(EVENTS).unwrap();
    station.counted("SELECT count(*) FROM dead_letters", count).await;

    let replay = station.post("/api/dead-letters/replay", &json!({})).await;
    let path = format!("/api/replays/{}", replay["id"].as_str().unwrap());
    let mut kills = 0;
    let finished = loop {
        let (_, shown): (_, Value) = station.get(&path).await;
        if shown["status"] != "running" {
            break shown;
        }
        if kills < Scale::read().kills() {
            tokio::time::sleep(POLL_INTERVAL * u32::try_from(dice.below(4)).unwrap()).await;
            station.kill().await;
            station.start_again().await;
            kills += 1;
        }
    };
    println!("{test}: killed {kills} times, planned {}", finished["done"]);
    assert_eq!((&finished["status"], &finished["done"]), (&json!("finished"), &json!(EVENTS)));
    assert_eq!((&finished["total"], &finished["skipped"]), (&json!(EVENTS), &json!(0)));
    assert_eq!(station.database.count(PLANNED).await, count);
    assert_eq!(station.database.count(REPEATED).await, count);
    station.counted(WAITING, 0).await;
    station.stop().await;
}
