//! Repeated `kill -9` under load.

use std::sync::Arc;
use std::time::Duration;

use super::consumer::{ERASURES_LEFT, Eraser};
use super::deliveries::{MANY_RETRIES, Subscribers};
use super::ledger::Ledger;
use super::load::{Load, Manners};
use super::station::Station;
use super::{Dice, Scale};
use crate::support::postgres;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_kills_on_sqlite() {
    crash_loop(Station::on_sqlite(&[MANY_RETRIES]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_kills_on_postgresql() {
    let url = postgres::fresh_database().await;
    crash_loop(Station::on_postgres(&url, &[MANY_RETRIES]).await).await;
}

/// Kills come after a random number of answers, so that they hit a server that has just started as
/// well as one with a backlog. With sixteen clients, the other fifteen requests are anywhere between
/// socket, journal and answer. Some servers are killed once more while they start, after a short
/// while that is random too: in recovery, in a migration, or just when they listen.
async fn crash_loop(mut station: Station) {
    let test = format!("crash loop on {}", station.database.name());
    let mut dice = Dice::new(&test);
    let ledger = Arc::new(Ledger::new());
    let subscribers = Subscribers::subscribe(&station).await;
    let manners = Manners { kills: true, ..Manners::DEMANDING };
    let load = Load::start(&station, &ledger, manners, &mut dice);
    let eraser = Eraser::start(&station, &ledger, &mut dice);
    let kills = Scale::read().kills();
    for _ in 0..kills {
        ledger.accepted(dice.of_any_size(11)).await;
        station.kill().await;
        if dice.below(3) == 0 {
            station.start_and_kill(Duration::from_millis(dice.below(100))).await;
        }
        station.start_again().await;
    }
    ledger.accepted(100).await;
    load.end().await;
    eraser.stop().await;
    station.drained().await;
    station.counted(ERASURES_LEFT, 0).await;
    let stored = station.database.events().await;
    ledger.settle(&stored).report(&format!("{test}, {kills} kills"));
    let (asked, answered) = ledger.erasures();
    println!("{test}: {asked} erasures, {answered} answered, 0 came back");
    subscribers.settle_beside_erasures(&station, &stored, asked, &test).await;
    station.stop().await;
}
