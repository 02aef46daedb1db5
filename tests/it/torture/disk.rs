//! Disks that are full, or fail.
//!
//! A test cannot break a disk, but it can have the kernel refuse its writes: a limit on the length
//! of files (`RLIMIT_FSIZE`), set on the running server from outside, fails every write beyond it
//! with `EFBIG`. It needs no privilege and affects every file longer than the limit. The SQLite file and
//! its log grow, and so it is a full disk for them. The journal's segments are allocated in full before they are used; for
//! them it is a full disk on a file system that never overwrites in place.
//!
//! A disk that is full for real, with `ENOSPC` for everybody, is a small `tmpfs` in a mount
//! namespace of the server's own, or of PostgreSQL's. Where the system does not permit one, that test says so and
//! passes.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;
use tokio::task::block_in_place;

use super::database::Database;
use super::deliveries::{MANY_RETRIES, Subscribers};
use super::ledger::Ledger;
use super::load::{Load, Manners, Post};
use super::station::Station;
use super::{Dice, Scale};
use crate::support::postgres::PrivatePostgres;
use crate::support::wait::until;

const MIB: u64 = 1024 * 1024;

/// Requests that are accepted while PostgreSQL's disk is full, at most: later it has room for what they bring.
const BEHIND_FULL_DISK: u64 = 2_000;

/// Writes beyond the limit fail instead of ending the process.
const OUTLIVES_THE_LIMIT: &str = "trap '' XFSZ; exec \"$0\" serve";

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_file_that_cannot_grow_is_an_outage_like_any_other() {
    let mut station = Station::start(None, &[], OUTLIVES_THE_LIMIT).await;
    let mut dice = Dice::new("no room for SQLite");
    let ledger = Arc::new(Ledger::new());
    let load = Load::start(&station, &ledger, Manners::DEMANDING, &mut dice);
    ledger.accepted(100).await;
    // The length of a segment: the journal never writes beyond it, and SQLite's log soon would.
    limit(&station, Some(8 * MIB));
    // More than fits below the limit.
    let mut sender = station.sender();
    for _ in 0..100 {
        Post::one(ledger.number(1), false, 100_000).send(&mut sender, &ledger).await;
    }
    // The outage lasts, under load.
    tokio::time::sleep(Scale::read().outage()).await;
    ledger.accepted(100).await;
    assert!(station.health().await.queue.events > 0, "SQLite took everything");
    limit(&station, None);
    ledger.accepted(100).await;
    load.end().await;
    station.drained().await;
    ledger.settle(&station.database.events().await).report("no room for SQLite");
    station.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_without_space_for_a_record_refuses_until_there_is_some() {
    let mut station = Station::start(None, &[], OUTLIVES_THE_LIMIT).await;
    let ledger = Ledger::new();
    let mut sender = station.sender();
    for _ in 0..100 {
        Post::one(ledger.number(1), false, 1_000).send(&mut sender, &ledger).await;
    }
    limit(&station, Some(64 * 1024));
    for _ in 0..10 {
        let refused = sender.post("/api/events", r#"{"type":"a","payload":1}"#).await.unwrap();
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.body.contains("journal_full"), "{refused:?}");
    }
    let (status, ready): (u16, Value) = station.get("/health/ready").await;
    assert_eq!((status, &ready["checks"]["journal"]), (503, &"full".into()), "{ready}");

    // Nothing of a record was written, so nothing is in doubt and nothing needs a restart.
    limit(&station, None);
    until("it is ready", async || station.get::<Value>("/health/ready").await.0 == 200).await;
    Post::one(ledger.number(1), false, 10).send(&mut sender, &ledger).await;
    station.drained().await;
    ledger.settle(&station.database.events().await).report("disk without space for a record");
    station.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_refuses_and_costs_nothing() {
    let enter = ["-Urm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"];
    if !Command::new("unshare").args(enter).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED full disk: this system lets nobody mount a tmpfs in a namespace");
        return;
    }
    let script = "exec unshare -Urm sh -c 'mount -t tmpfs -o size=256m tmpfs \"$DATA_DIR\" && \
                  cd \"$DATA_DIR\" && exec \"$0\" serve' \"$0\"";
    // Without the guard that refuses while there still is some space.
    let settings = [("JOURNAL_MAX_MIB", "64"), ("DISK_FREE_MIN_MIB", "0")];
    let mut station = Station::start(None, &settings, script).await;
    station.look_inside();
    let mut dice = Dice::new("full disk");
    let ledger = Arc::new(Ledger::new());
    let manners = Manners { padding_max: 5_000, refusals: true, ..Manners::DEMANDING };
    let load = Load::start(&station, &ledger, manners, &mut dice);
    ledger.accepted(100).await;

    let ballast = station.files().join("ballast");
    fill(&ballast);
    ledger.refused(100).await;
    let (status, ready): (u16, Value) = station.get("/health/ready").await;
    // The one tenant's share of what is left may be used up before all of it is.
    let journal = ready["checks"]["journal"].as_str();
    assert!(matches!((status, journal), (503, Some("full")) | (200, Some("ok"))), "{ready}");

    fs::remove_file(&ballast).unwrap();
    ledger.accepted(100).await;
    load.end().await;
    station.drained().await;
    println!("full disk: refused {} requests", ledger.refusals());
    // SQLite does not open files through /proc. Nothing is written now, so a copy is whole.
    let copy = crate::support::temporary::directory();
    for name in ["hookgate.db", "hookgate.db-wal"] {
        fs::copy(station.files().join(name), copy.path().join(name)).unwrap();
    }
    ledger.settle(&Database::sqlite(copy.path()).events().await).report("full disk");
    station.stop().await;
}

/// No space for PostgreSQL's tables (SQLSTATE 53100); its log of changes is on another disk. Without space for that one
/// PostgreSQL ends by itself, which is an outage like any other.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_whose_disk_is_full_is_an_outage_until_it_has_space() {
    let test = "full disk of PostgreSQL";
    let Some(server) = block_in_place(|| PrivatePostgres::start_on_small_disk(192)) else {
        println!("SKIPPED {test}: this system lets nobody mount a tmpfs in a namespace");
        return;
    };
    let url = server.fresh_database().await;
    let stalls_soon = [("DELIVERY_STALL_AFTER", "4s"), ("DELIVERY_TIMEOUT", "2s"), MANY_RETRIES];
    let mut station = Station::on_postgres(&url, &stalls_soon).await;
    let mut dice = Dice::new(test);
    let ledger = Arc::new(Ledger::new());
    let subscribers = Subscribers::subscribe(&station).await;
    let manners =
        Manners { clients: 2, clients_in_order: 0, padding_max: 5_000, ..Manners::DEMANDING };
    let load = Load::start(&station, &ledger, manners, &mut dice);
    ledger.accepted(100).await;

    let ballast = server.tables().join("ballast");
    fill(&ballast);
    let strict = async || station.get::<Value>("/health/ready?strict").await;
    until("readiness tells that nothing is stored", async || {
        let (status, ready) = strict().await;
        (status, &ready["checks"]["planning"]) == (503, &"ingest_stalled".into())
    })
    .await;
    let (status, ready): (u16, Value) = station.get("/health/ready").await;
    assert_eq!(status, 200, "it still takes events: {ready}");
    // Clients fail at anything but a 202.
    ledger.accepted(100).await;
    let _ = tokio::time::timeout(Scale::read().outage(), ledger.accepted(BEHIND_FULL_DISK)).await;
    load.end().await;
    assert!(station.health().await.queue.events > 0, "PostgreSQL took everything");

    fs::remove_file(&ballast).unwrap();
    let load = Load::start(&station, &ledger, manners, &mut dice);
    ledger.accepted(100).await;
    load.end().await;
    station.drained().await;
    until("it is ready", async || strict().await.0 == 200).await;
    let stored = station.database.events().await;
    ledger.settle(&stored).report(test);
    subscribers.settle(&station, &stored, test).await;
    let log = station.stop().await.concat();
    assert!(log.contains("No space left on device"), "{log}");
}

/// Leaves no space on the disk of this file.
fn fill(ballast: &Path) {
    let full = std::io::copy(&mut std::io::repeat(0), &mut File::create(ballast).unwrap());
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
}

/// Limits the length of the files that the running server writes.
fn limit(station: &Station, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(station.server().pid()), Resource::Fsize, limit).unwrap();
}
