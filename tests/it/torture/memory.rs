//! The backlog is on disk, not in memory.

use super::Scale;
use super::ledger::Ledger;
use super::load::Post;
use super::station::Station;
use crate::support::postgres;

/// Memory that the server may use beyond its idle use, for any number of queued events: eight workers with
/// a batch each, the buffers of the store's connections, and what the allocator keeps.
const GROWTH_BYTES_MAX: u64 = 100 * 1024 * 1024;

const BATCH_EVENTS: u64 = 1_000;
/// Batches between two measurements of the memory.
const BATCHES_PER_LOOK: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_backlog_on_sqlite() {
    backlog(Station::on_sqlite(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_backlog_on_postgresql() {
    let url = postgres::fresh_database().await;
    backlog(Station::on_postgres(&url, &[]).await).await;
}

async fn backlog(mut station: Station) {
    let ledger = Ledger::new();
    let mut sender = station.sender();
    // The key is verified now, which takes memory of its own.
    Post::one(ledger.number(1), false, 0).send(&mut sender, &ledger).await;
    station.drained().await;
    let idle = station.health().await.memory_bytes;

    let hold = station.database.hold().await;
    let mut most = 0;
    for batch in 0..Scale::read().backlog() / BATCH_EVENTS {
        Post::many(ledger.number(BATCH_EVENTS), false, 50).send(&mut sender, &ledger).await;
        if batch % BATCHES_PER_LOOK == 0 {
            most = most.max(station.health().await.memory_bytes);
        }
    }
    let full = station.health().await;
    assert_eq!(full.queue.events, Scale::read().backlog(), "the store was not held away");
    hold.release().await;
    let draining = station.drained().await;
    let after = station.health().await.memory_bytes;

    let mib = |bytes: u64| bytes / (1024 * 1024);
    println!(
        "memory on {}: {} MiB idle, {} with {} events waiting, at most {} while they came and {} \
         while they were stored, {} after",
        station.database.name(),
        mib(idle),
        mib(full.memory_bytes),
        full.queue.events,
        mib(most),
        mib(draining),
        mib(after),
    );
    let most = most.max(full.memory_bytes).max(draining);
    assert!(most < idle + GROWTH_BYTES_MAX, "{idle} bytes grew to {most}");
    ledger.settle(&station.database.events().await).report("backlog");
    station.stop().await;
}
