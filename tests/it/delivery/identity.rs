//! Which server's leases a start releases: those of its own earlier runs, at once, and nobody else's.

use std::path::Path;
use std::process::Command;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor, Row};
use tempfile::TempDir;

use super::servers::Delivering;
use crate::support::faulty::{Act, Faulty};
use crate::support::postgres;
use crate::support::wait::until;

const EVENTS: usize = 8;
/// Far longer than a test waits: nothing here may depend on a lease that lapses, or on an attempt that ends.
const LONG_LEASE: [(&str, &str); 2] = [("DELIVERY_LEASE", "1h"), ("DELIVERY_TIMEOUT", "30m")];

/// Hangs on the first requests, so that the server that sent them holds their leases until it ends.
async fn hanging_at_first() -> Faulty {
    Faulty::start(|number| if number < EVENTS { Act::Hang } else { Act::Answer }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_data_directory_sends_nothing_twice_and_is_named() {
    let url = postgres::fresh_database().await;
    let settings = [LONG_LEASE[0], LONG_LEASE[1], ("DATABASE_URL", url.as_str())];
    let receiver = hanging_at_first().await;
    let original = Delivering::start(&settings).await;
    original.endpoint(&receiver.url()).await;
    original.publish(EVENTS).await;
    receiver.requested(EVENTS).await;

    let copied = copy_of(original.directory.path());
    let tenant = original.tenant.clone();
    let copy = Delivering::again((copied, tenant.clone()), &settings).await;
    copy.metric("hookgate_data_dir_copies", 1).await;
    original.metric("hookgate_data_dir_copies", 1).await;
    assert_eq!(receiver.requests(), EVENTS, "the copy has released nothing");
    let log = copy.binary.stop().await;
    let named = log.iter().filter(|line| line.contains("a copy of this data directory"));
    assert_eq!(named.count(), 1, "{log:#?}");

    // The original's leases are still its own, and end with it.
    let original = Delivering::again(original.kill().await, &settings).await;
    original.delivered(EVENTS).await;
    assert_eq!(receiver.requests(), 2 * EVENTS);
    original.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_of_a_data_directory_with_its_sqlite_file_sends_nothing_that_is_in_flight_and_says_so()
{
    let receiver = hanging_at_first().await;
    let original = Delivering::start(&LONG_LEASE).await;
    original.endpoint(&receiver.url()).await;
    original.publish(EVENTS).await;
    receiver.requested(EVENTS).await;
    let copied = copy_of(original.directory.path());
    let copy = Delivering::again((copied, original.tenant.clone()), &LONG_LEASE).await;
    // What is new is sent, and so would be what was released.
    copy.publish(1).await;
    receiver.requested(EVENTS + 1).await;
    copy.delivered(1).await;
    assert_eq!(receiver.requests(), EVENTS + 1);
    let log = copy.binary.stop().await;
    let named = log.iter().filter(|line| line.contains("moved or copied from a server"));
    assert_eq!(named.count(), 1, "{log:#?}");
    original.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_on_postgresql_resumes_its_deliveries_at_once() {
    let url = postgres::fresh_database().await;
    resumes_at_once(&[LONG_LEASE[0], LONG_LEASE[1], ("DATABASE_URL", url.as_str())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_on_sqlite_resumes_its_deliveries_at_once() {
    resumes_at_once(&LONG_LEASE).await;
}

async fn resumes_at_once(settings: &[(&str, &str)]) {
    let receiver = hanging_at_first().await;
    let mut server = Delivering::start(settings).await;
    server.endpoint(&receiver.url()).await;
    server.publish(EVENTS).await;
    receiver.requested(EVENTS).await;
    server = Delivering::again(server.kill().await, settings).await;
    server.delivered(EVENTS).await;
    assert_eq!(receiver.requests(), 2 * EVENTS);
    server.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_data_directory_releases_the_leases_of_a_server_without_heartbeat() {
    let url = postgres::fresh_database().await;
    let settings = [LONG_LEASE[0], LONG_LEASE[1], ("DATABASE_URL", url.as_str())];
    let receiver = hanging_at_first().await;
    let server = Delivering::start(&settings).await;
    server.endpoint(&receiver.url()).await;
    server.publish(EVENTS).await;
    receiver.requested(EVENTS).await;
    let (directory, tenant) = server.kill().await;
    let moved = copy_of(directory.path());
    let server = Delivering::again((moved, tenant), &settings).await;
    server.delivered(EVENTS).await;
    server.binary.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_releases_the_leases_of_the_id_in_the_file_of_earlier_versions() {
    let receiver = hanging_at_first().await;
    let server = Delivering::start(&LONG_LEASE).await;
    server.endpoint(&receiver.url()).await;
    server.publish(EVENTS).await;
    receiver.requested(EVENTS).await;
    let (directory, tenant) = server.kill().await;
    let file = SqliteConnectOptions::new().filename(directory.path().join("hookgate.db"));
    let mut database = file.connect().await.unwrap();
    let sql = "DELETE FROM servers;
               UPDATE pending_deliveries
               SET lease_token = CAST(x'000000000000002a' || substr(lease_token, 9) AS BLOB)
               WHERE lease_token IS NOT NULL";
    database.execute(sqlx::raw_sql(sql)).await.unwrap();
    let old_file = directory.path().join("instance");
    std::fs::write(&old_file, "000000000000002a\n").unwrap();

    let server = Delivering::again((directory, tenant), &LONG_LEASE).await;
    server.delivered(EVENTS).await;
    assert!(!old_file.exists());
    let count = "SELECT count(*) AS count FROM servers";
    let mut servers = async || database.fetch_one(count).await.unwrap().get::<i64, _>("count");
    assert_eq!(servers().await, 1);
    server.binary.stop().await;
    until("the server has left", async || servers().await == 0).await;
}

/// A copy as an administrator makes it.
fn copy_of(directory: &Path) -> TempDir {
    let copy = crate::support::temporary::directory();
    let status = Command::new("cp").arg("-a").arg(directory.join(".")).arg(copy.path()).status();
    assert!(status.unwrap().success());
    copy
}
