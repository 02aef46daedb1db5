//! Recovery of PostgreSQL to a point in time from a base backup and an archive of its WAL, as docs/operations.md tells,
//! and the journal's replay after it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use tokio::task::block_in_place;

use super::{Database, post_all, run_json, stored};
use crate::support::binary::Binary;
use crate::support::postgres::PrivatePostgres;
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn database_recovered_to_a_point_in_time_gets_what_the_journal_has_once() {
    let primary = block_in_place(PrivatePostgres::start);
    let archive = primary.directory().join("archive");
    create_dir(&archive);
    let archive = archive.display();
    let archiving = format!(
        "ALTER SYSTEM SET archive_command = 'test ! -f {archive}/%f && cp %p {archive}/%f'"
    );
    primary.execute("postgres", &["ALTER SYSTEM SET archive_mode = on", &archiving]).await;
    block_in_place(|| {
        primary.stop_politely();
        primary.start_again();
    });
    let url = primary.fresh_database().await;
    let name = url.rsplit_once('/').unwrap().1;
    let database = Database::Postgres(url.clone());
    let data = crate::support::temporary::directory();
    let mut server = Binary::start(data.path(), &database.settings()).await;
    let (key, _) = server.first_keys().await;
    let mut ids = post_all(&server, &key, 10).await;
    stored(&database, data.path(), 10).await;
    let restored = block_in_place(|| primary.base_backup(&[]));

    // What is stored from here on is in the archive alone, and after the point in the journal alone.
    ids.extend(post_all(&server, &key, 10).await);
    stored(&database, data.path(), 20).await;
    let point = one(&database, data.path(), "SELECT clock_timestamp()::text").await;
    ids.extend(post_all(&server, &key, 10).await);
    stored(&database, data.path(), 30).await;
    server.stop().await;
    let last = "SELECT pg_walfile_name(pg_switch_wal())::text";
    let last = one(&database, data.path(), last).await;
    until("the archive has it", async || {
        let archived = "SELECT coalesce(last_archived_wal, '')::text FROM pg_stat_archiver";
        one(&database, data.path(), archived).await >= last
    })
    .await;
    block_in_place(|| primary.stop());

    let settings = format!(
        "restore_command = 'cp {archive}/%f %p'\nrecovery_target_time = '{point}'\n\
         recovery_target_action = 'promote'\n"
    );
    let tables = restored.tables();
    let mut file = File::options().append(true).open(tables.join("postgresql.auto.conf")).unwrap();
    file.write_all(settings.as_bytes()).unwrap();
    File::create(tables.join("recovery.signal")).unwrap();
    block_in_place(|| restored.start_again());
    let recovered = Database::Postgres(restored.url(name));
    until("it is recovered", async || {
        one(&recovered, data.path(), "SELECT pg_is_in_recovery()::text").await == "false"
    })
    .await;
    assert_eq!(recovered.events(data.path()).await.len(), 20, "it is at the point");

    let (status, log) = Binary::fail_to_start(data.path(), &recovered.settings()).await;
    assert!(!status.success() && log.concat().contains("is older than the journal"), "{log:#?}");
    let counted = run_json(data.path(), &recovered, &["journal", "replay", "--dry-run"]).await;
    assert_eq!(counted["missing"], 10, "{counted}");
    // A time before the point: what was accepted until then may be stored later.
    let earlier = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC' - interval '5 min', \
                   'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
    let earlier = one(&recovered, data.path(), earlier).await;
    let since = ["journal", "replay", "--since", &earlier];
    let replayed = run_json(data.path(), &recovered, &since).await;
    assert_eq!((&replayed["missing"], &replayed["complete"]), (&10.into(), &false.into()));
    let completed = run_json(data.path(), &recovered, &["journal", "replay"]).await;
    assert_eq!((&completed["missing"], &completed["complete"]), (&0.into(), &true.into()));

    let server = Binary::start(data.path(), &recovered.settings()).await;
    ids.extend(post_all(&server, &key, 1).await);
    stored(&recovered, data.path(), 31).await;
    server.stop().await;
    ids.sort_unstable();
    assert_eq!(recovered.events(data.path()).await, ids);
}

/// The one text that a query answers with.
async fn one(database: &Database, data_dir: &Path, sql: &str) -> String {
    database.texts(data_dir, sql).await.swap_remove(0)
}

/// Makes a directory that belongs to the account of its parent.
fn create_dir(path: &Path) {
    fs::create_dir(path).unwrap();
    let parent = fs::metadata(path.parent().unwrap()).unwrap();
    chown(path, Some(parent.uid()), Some(parent.gid())).unwrap();
}
