//! Power cuts, on a file system in user space (FUSE). This group needs a system that lets the user mount one;
//! `scripts/test --without-system` leaves it out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinSet, block_in_place};

use super::consumer::{ERASURES_LEFT, Eraser};
use super::database::Database;
use super::deliveries::{MANY_RETRIES, Subscribers};
use super::ledger::Ledger;
use super::load::{Load, Manners};
use super::power::{FAULTS, HANG, PowerDisk};
use super::station::Station;
use super::{Dice, Scale};
use crate::support::postgres;

/// Each is followed by a power cut, after which more or less of what was not synced is left.
const BACKUPS: usize = 8;
/// How often SQLite's file is checked as a whole.
const CHECK_EVERY: u32 = 10;
/// Events of another organisation, older than what is kept.
const EXPIRED: &str = "SELECT count(*) FROM events WHERE event_type NOT LIKE 'torture.%'";
const UNSOUND: &str = "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'";

/// The power fails at any moment: under load, in recovery, or just when the server listens. What the disk has not
/// synced by then is kept, lost or torn. Every start must succeed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_power_cuts() {
    let test = "power cuts";
    let mut dice = Dice::new(test);
    let (disk, station) = powered(&mut dice, None, &[]).await;
    power_cuts(test, dice, disk, station).await;
}

/// The power of the server alone fails: PostgreSQL is on another machine.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_power_cuts_beside_postgresql() {
    let test = "power cuts beside PostgreSQL";
    let mut dice = Dice::new(test);
    let url = postgres::fresh_database().await;
    let (disk, station) = powered(&mut dice, Some(&url), &[]).await;
    power_cuts(test, dice, disk, station).await;
}

/// Events are erased, and older ones expire, all the while.
async fn power_cuts(test: &str, mut dice: Dice, mut disk: PowerDisk, mut station: Station) {
    let ledger = Arc::new(Ledger::new());
    let subscribers = Subscribers::subscribe(&station).await;
    station.seed_expired().await;
    // A new server does not know the key yet, and asks a database that may take longer than DATABASE_TIMEOUT.
    let refusals = matches!(station.database, Database::Postgres(_));
    let manners = Manners { kills: true, refusals, ..Manners::DEMANDING };
    let load = Load::start(&station, &ledger, manners, &mut dice);
    let eraser = Eraser::start(&station, &ledger, &mut dice);
    let cuts = Scale::read().kills();
    let mut starts_cut = 0;
    for cut in 1..=cuts {
        ledger.accepted(dice.of_any_size(9)).await;
        station.kill().await;
        disk.cut(&mut dice);
        if dice.below(3) == 0 {
            station.start_and_kill(Duration::from_millis(dice.below(300))).await;
            disk.cut(&mut dice);
            starts_cut += 1;
        }
        station.start_again().await;
        if cut % CHECK_EVERY == 0 || cut == cuts {
            assert_sound(&station).await;
        }
    }
    ledger.accepted(100).await;
    load.end().await;
    eraser.stop().await;
    station.drained().await;
    station.counted(ERASURES_LEFT, 0).await;
    station.counted(EXPIRED, 0).await;
    let stored = station.database.events().await;
    let figures = format!("{test}: {cuts} under load, {starts_cut} at a start, 0 starts refused");
    ledger.settle(&stored).report(&figures);
    let (asked, answered) = ledger.erasures();
    println!("{test}: {asked} erasures, {answered} answered, 0 came back");
    subscribers.settle_beside_erasures(&station, &stored, asked, test).await;
    station.stop().await;
}

/// The disk fails or delays one operation; then the power fails.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_disk_that_fails_once_before_a_power_cut() {
    let test = "disk that fails once";
    let mut dice = Dice::new(test);
    let (mut disk, mut station) = powered(&mut dice, None, &[]).await;
    let ledger = Arc::new(Ledger::new());
    // Few clients: a server that is killed every few seconds stores less than many of them post.
    let manners = Manners { clients: 4, kills: true, refusals: true, ..Manners::DEMANDING };
    let rounds = (Scale::read().kills() / 10).max(1);
    for _ in 0..rounds {
        let load = Load::start(&station, &ledger, manners, &mut dice);
        for (name, fault) in FAULTS {
            println!("{test}: {name}");
            ledger.accepted(dice.of_any_size(6)).await;
            disk.strike(fault()).await;
            tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
            station.kill().await;
            disk.cut(&mut dice);
            station.start_again().await;
        }
        ledger.accepted(100).await;
        load.end().await;
        // What a round leaves is stored before the next one: it takes longer than to post it.
        station.drained().await;
    }
    assert_sound(&station).await;
    ledger.settle(&station.database.events().await).report(test);
    station.stop().await;
}

/// A sync that does not end ends no request, and the stop does not wait for it either.
#[tokio::test(flavor = "multi_thread")]
async fn stop_does_not_wait_for_a_disk_that_hangs() {
    let mut dice = Dice::new("disk that hangs");
    let (disk, mut station) = powered(&mut dice, None, &[("SHUTDOWN_TIMEOUT", "500ms")]).await;
    let mut sender = station.sender();
    let mut posting = JoinSet::new();
    posting.spawn(async move { sender.post("/api/events", r#"{"type":"a","payload":1}"#).await });
    disk.strike(HANG).await;
    let server = station.ask_to_stop();
    // The system keeps the process until the sync ends, but nothing of it runs.
    server.left_main().await;
    disk.go_on();
    let lost = posting.join_next().await.unwrap().unwrap().map(|reply| reply.status);
    let (status, log) = server.ended().await;
    assert!(status.success(), "{status}: {log:#?}");
    assert!(log.iter().any(|line| line.contains("does not close; leaving it")), "{log:#?}");
    assert_ne!(lost, Ok(202), "what is not durable is not accepted");
    station.start_again().await;
    station.stop().await;
}

/// What a backup says that it has, it has after the power failed, too, and under the names that it has.
#[tokio::test(flavor = "multi_thread")]
async fn finished_backup_survives_a_power_cut() {
    let mut dice = Dice::new("backups");
    let mut station = Station::on_sqlite(&[]).await;
    let mut sender = station.sender();
    let place = crate::support::temporary::directory();
    let mut disk = PowerDisk::mount(place.path(), &mut dice);
    for number in 0..BACKUPS {
        let event = format!(r#"{{"type":"a","payload":{number}}}"#);
        assert_eq!(sender.post("/api/events", &event).await.unwrap().status, 202);
        let backup = place.path().join(format!("backups/{number}"));
        station.run(&["backup", backup.to_str().unwrap()]).await;
        let files = block_in_place(|| content(&backup));
        assert!(files.len() > 2, "{:?}", files.keys());
        disk.cut(&mut dice);
        assert!(block_in_place(|| content(&backup)) == files, "{number}: {:?}", files.keys());
    }
    station.stop().await;
}

/// The files below a directory.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in dir.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let content = std::fs::read(&path).unwrap();
                files.insert(path, content);
            }
        }
    }
    files
}

/// Fails when SQLite finds its file damaged.
async fn assert_sound(station: &Station) {
    if let Database::Copied(_) = station.database {
        assert_eq!(station.database.count(UNSOUND).await, 0);
    }
}

/// A server with its data directory on a disk whose power can be cut: on SQLite, or on a PostgreSQL database
/// elsewhere.
async fn powered(
    dice: &mut Dice,
    url: Option<&str>,
    settings: &[(&str, &str)],
) -> (PowerDisk, Station) {
    let data_dir = crate::support::temporary::directory();
    let disk = PowerDisk::mount(data_dir.path(), dice);
    let settings = [&[MANY_RETRIES, ("RETENTION", "1d")], settings].concat();
    let mut station = Station::start_in(data_dir, url, &settings, "exec \"$0\" serve").await;
    if url.is_none() {
        station.database = Database::Copied(disk.copies());
    }
    (disk, station)
}
