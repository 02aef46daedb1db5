//! Store outages under load: answers during the outage, and stored events after it.

use std::sync::Arc;

use tokio::task::block_in_place;

use super::deliveries::{MANY_RETRIES, Subscribers};
use super::ledger::Ledger;
use super::load::{Load, Manners, Post};
use super::station::Station;
use super::{Dice, Scale};
use crate::support::postgres::{self, PrivatePostgres};

/// The smallest journal: four segments.
const SMALL_JOURNAL: (&str, &str) = ("JOURNAL_MAX_MIB", "32");

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_notice_that_postgresql_is_away() {
    let server = PrivatePostgres::start();
    let url = server.fresh_database().await;
    let mut story =
        Story::begin("outages of PostgreSQL", Station::on_postgres(&url, &[MANY_RETRIES]).await)
            .await;

    let load = story.load().await;
    block_in_place(|| server.stop());
    story.tenants_notice_nothing().await;
    block_in_place(|| server.start_again());
    story.ends(load).await;

    let load = story.load().await;
    block_in_place(|| server.stop_politely());
    story.tenants_notice_nothing().await;
    block_in_place(|| server.start_again());
    story.ends(load).await;

    let load = story.load().await;
    let mut terminated = 0;
    for _ in 0..Scale::read().restarts() {
        story.ledger.accepted(story.dice.of_any_size(8)).await;
        terminated += server.terminate_connections().await;
    }
    assert!(terminated > 0, "nobody was connected");
    story.ends(load).await;

    let load = story.load().await;
    let hold = story.station.database.hold().await;
    story.tenants_notice_nothing().await;
    hold.release().await;
    story.ends(load).await;
    story.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_notice_that_sqlite_is_locked() {
    let mut story = Story::begin("SQLite locked", Station::on_sqlite(&[MANY_RETRIES]).await).await;
    let load = story.load().await;
    let hold = story.station.database.hold().await;
    story.tenants_notice_nothing().await;
    hold.release().await;
    story.ends(load).await;
    story.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_journal_refuses_until_sqlite_is_back() {
    full_journal(Station::on_sqlite(&[SMALL_JOURNAL, MANY_RETRIES]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_journal_refuses_until_postgresql_is_back() {
    let url = postgres::fresh_database().await;
    full_journal(Station::on_postgres(&url, &[SMALL_JOURNAL, MANY_RETRIES]).await).await;
}

/// Every answer is a 202, or a refusal with `Retry-After`; clients see to that. All of them are of one organisation, so
/// its share of the journal is used up, and the journal would take the events of others.
async fn full_journal(station: Station) {
    let name = format!("full journal on {}", station.database.name());
    let mut story = Story::begin(&name, station).await;
    story.manners = Manners { padding_max: 100_000, refusals: true, ..story.manners };
    let load = story.load().await;
    let hold = story.station.database.hold().await;
    story.ledger.refused(100).await;
    let (_, ready): (u16, serde_json::Value) = story.station.get("/health/ready").await;
    assert_eq!(ready["checks"]["journal"], "ok", "{ready}");
    outage_lasts().await;

    hold.release().await;
    // With room again, everything is taken again.
    story.ledger.accepted(200).await;
    println!("{name}: refused {} requests", story.ledger.refusals());
    story.ends(load).await;
    story.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_is_stored_in_order_of_arrival_on_sqlite() {
    order_of_arrival(Station::on_sqlite(&ONE_AFTER_THE_OTHER).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_is_stored_in_order_of_arrival_on_postgresql() {
    let url = postgres::fresh_database().await;
    order_of_arrival(Station::on_postgres(&url, &ONE_AFTER_THE_OTHER).await).await;
}

/// Batches are read in order of arrival and stored side by side, so only with one worker does the
/// order of the transactions show it. Within a transaction rows are written in the order of keys.
const ONE_AFTER_THE_OTHER: [(&str, &str); 2] = [("WORKERS", "1"), ("STORE_BATCH_EVENTS", "20")];

async fn order_of_arrival(mut station: Station) {
    let ledger = Ledger::new();
    let hold = station.database.hold().await;
    let mut sender = station.sender();
    for _ in 0..2_000 {
        Post::one(ledger.number(1), false, 10).send(&mut sender, &ledger).await;
    }
    hold.release().await;
    station.drained().await;
    let stored = station.database.events().await;
    let verdict = ledger.settle(&stored);
    verdict.report(&format!("order of arrival on {}", station.database.name()));
    for (place, event) in stored.iter().enumerate() {
        let behind = event.number.abs_diff(place as u64);
        assert!(behind < 20, "event {} was stored as number {place}", event.number);
    }
    station.stop().await;
}

/// A station, its load, and its ledger through several outages.
struct Story {
    name: String,
    station: Station,
    ledger: Arc<Ledger>,
    subscribers: Subscribers,
    manners: Manners,
    dice: Dice,
}

impl Story {
    async fn begin(name: &str, station: Station) -> Self {
        let (ledger, dice) = (Arc::new(Ledger::new()), Dice::new(name));
        // Few clients, so that long outages leave millions of events and not tens of millions.
        let manners = Manners { clients: 4, clients_in_order: 0, ..Manners::DEMANDING };
        let subscribers = Subscribers::subscribe(&station).await;
        Self { name: name.to_owned(), station, ledger, subscribers, manners, dice }
    }

    /// Clients at work. Their key has been read from the store once when this returns.
    async fn load(&mut self) -> Load {
        let load = Load::start(&self.station, &self.ledger, self.manners, &mut self.dice);
        self.ledger.accepted(100).await;
        load
    }

    /// The outage, for its time: the load goes on, and clients fail at anything but a 202.
    async fn tenants_notice_nothing(&self) {
        outage_lasts().await;
        self.ledger.accepted(100).await;
        assert!(self.station.health().await.queue.events > 0, "the store was not away");
    }

    /// Ends the outage, and waits until every acknowledged event is stored.
    async fn ends(&self, load: Load) {
        self.ledger.accepted(300).await;
        load.end().await;
        self.station.drained().await;
    }

    async fn settle(mut self) {
        let stored = self.station.database.events().await;
        self.ledger.settle(&stored).report(&self.name);
        self.subscribers.settle(&self.station, &stored, &self.name).await;
        self.station.stop().await;
    }
}

/// Lets time pass under load: the duration of the outage matters here.
async fn outage_lasts() {
    tokio::time::sleep(Scale::read().outage()).await;
}
