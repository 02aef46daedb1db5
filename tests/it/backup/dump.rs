//! `hookgate backup` of a PostgreSQL with several hosts.

use tokio::task::block_in_place;

use super::{Database, post_all, restore, run_json, stored};
use crate::support::binary::Binary;
use crate::support::postgres::PrivatePostgres;
use crate::support::temporary;

#[tokio::test(flavor = "multi_thread")]
async fn dump_is_made_of_the_primary_whichever_host_is_named_first() {
    let primary = block_in_place(PrivatePostgres::start);
    let name = primary.fresh_database().await.rsplit_once('/').unwrap().1.to_owned();
    let standby = block_in_place(|| primary.standby());
    let url = format!("postgres://postgres@{},{}/{name}", standby.host(), primary.host());
    let (data, backups) = (temporary::directory(), temporary::directory());
    let mut server = Binary::start(data.path(), &[("DATABASE_URL", &url)]).await;
    let (key, _) = server.first_keys().await;
    let on_standby = Database::Postgres(standby.url(&name));
    post_all(&server, &key, 3).await;
    stored(&on_standby, data.path(), 3).await;
    standby.execute("postgres", &["SELECT pg_wal_replay_pause()"]).await;
    post_all(&server, &key, 4).await;
    stored(&Database::Postgres(primary.url(&name)), data.path(), 7).await;

    let backup = backups.path().join("backup");
    let arguments = ["backup", backup.to_str().unwrap()];
    run_json(data.path(), &Database::Postgres(url), &arguments).await;
    assert_eq!(on_standby.events(data.path()).await.len(), 3, "the standby lags");
    let restored = restore(&on_standby, &backup).await;
    assert_eq!(restored.events(&backup).await.len(), 7);
    server.stop().await;
}
