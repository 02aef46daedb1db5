//! A replica that lists and look-ups read from: used while it keeps up, and stood in for by the primary.

use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::task::block_in_place;

use crate::support::answer::{answer, json};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::postgres::PrivatePostgres;
use crate::support::wait::until;

/// A server whose reads go to a standby.
struct World {
    primary: PrivatePostgres,
    standby: PrivatePostgres,
    database: String,
    server: Binary,
    key: String,
    _dir: TempDir,
}

impl World {
    async fn start(lag_max: &str) -> Self {
        let primary = block_in_place(PrivatePostgres::start);
        let url = primary.fresh_database().await;
        let database = url.rsplit('/').next().unwrap().to_owned();
        let standby = block_in_place(|| primary.standby());
        let dir = crate::support::temporary::directory();
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("DATABASE_READ_URL", &standby.url(&database)),
            ("DATABASE_READ_LAG_MAX", lag_max),
        ];
        let mut server = Binary::start(dir.path(), &settings).await;
        let (key, _) = server.first_keys().await;
        let world = Self { primary, standby, database, server, key, _dir: dir };
        world.until_the_replica_reads().await;
        world
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}{path}", self.server.base_url);
        answer(client().get(url).header("x-api-key", &self.key)).await.expect(200).clone()
    }

    /// Posts an event, and returns its id once the primary has it.
    async fn post(&self) -> String {
        self.post_of("early").await
    }

    /// The same of an account.
    async fn post_of(&self, account: &str) -> String {
        let request = client().post(format!("{}/api/events", self.server.base_url));
        let event = format!(r#"{{"type":"a","payload":1,"account_id":"{account}"}}"#);
        let posted = answer(json(request.header("x-api-key", &self.key), event)).await;
        let id = posted.expect(202)["id"].as_str().unwrap().to_owned();
        let mut connection =
            PgConnection::connect(&self.primary.url(&self.database)).await.unwrap();
        until("the primary has the event", async || {
            let count: i64 =
                sqlx::query_scalar("SELECT count(*) FROM events WHERE id = $1::text::uuid")
                    .bind(&id)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
            count == 1
        })
        .await;
        id
    }

    async fn listed(&self) -> Vec<String> {
        let list = self.get("/api/events?limit=100").await;
        let ids =
            list["data"].as_array().unwrap().iter().map(|event| event["id"].as_str().unwrap());
        ids.map(str::to_owned).collect()
    }

    async fn metric(&self, name: &str) -> u64 {
        let scraped =
            client().get(format!("{}/metrics", self.server.base_url)).send().await.unwrap();
        let text = scraped.text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        value.trim().parse().unwrap()
    }

    /// Until a list is read from the standby.
    async fn until_the_replica_reads(&self) {
        let fallbacks = async || self.metric("hookgate_replica_fallbacks_total").await;
        until("the replica is read from", async || {
            let before = fallbacks().await;
            self.listed().await;
            fallbacks().await == before
        })
        .await;
    }

    /// Has the standby stay as it is.
    async fn pause_replay(&self) {
        self.standby.execute(&self.database, &["SELECT pg_wal_replay_pause()"]).await;
        let mut connection =
            PgConnection::connect(&self.standby.url(&self.database)).await.unwrap();
        // Only asked for until then.
        until("the replay is paused", async || {
            let state: String = sqlx::query_scalar("SELECT pg_get_wal_replay_pause_state()")
                .fetch_one(&mut connection)
                .await
                .unwrap();
            state == "paused"
        })
        .await;
    }

    async fn resume_replay(&self) {
        self.standby.execute(&self.database, &["SELECT pg_wal_replay_resume()"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_read_from_the_replica_and_what_it_lacks_is_looked_up_on_the_primary() {
    let world = World::start("1h").await;
    let first = world.post().await;
    until("the standby has the first event", async || world.listed().await == [first.as_str()])
        .await;

    world.pause_replay().await;
    let second = world.post_of("late").await;
    assert_eq!(world.listed().await, [first.as_str()], "it was not read from the standby");
    assert_eq!(world.get(&format!("/api/events/{second}")).await["id"], second.as_str());
    until("the lag is measured", async || world.metric("hookgate_replica_lag_seconds").await > 0)
        .await;

    // What is read of an account or an endpoint by its id is not there either.
    let request = client().post(format!("{}/api/endpoints", world.server.base_url));
    let endpoint = r#"{"kind":"pull"}"#;
    let created = answer(json(request.header("x-api-key", &world.key), endpoint)).await;
    let endpoint = created.expect(201)["id"].as_str().unwrap().to_owned();
    assert_eq!(world.get("/api/accounts/late/summary").await["totals"]["a"], 1);
    let stats = world.get(&format!("/api/endpoints/{endpoint}/stats")).await;
    assert_eq!(stats["endpoint_id"], endpoint.as_str());
    let attempts = world.get(&format!("/api/endpoints/{endpoint}/attempts")).await;
    assert_eq!(attempts["data"].as_array().unwrap().len(), 0);

    world.resume_replay().await;
    until("the standby has both", async || world.listed().await.len() == 2).await;
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_stands_in_for_a_replica_that_lags_or_is_away() {
    let world = World::start("1s").await;
    world.pause_replay().await;
    world.post().await;
    until("the primary stands in", async || world.listed().await.len() == 1).await;
    world.resume_replay().await;
    world.until_the_replica_reads().await;

    block_in_place(|| world.standby.stop());
    world.post().await;
    assert_eq!(world.listed().await.len(), 2);
    block_in_place(|| world.standby.start_again());
    world.until_the_replica_reads().await;
    until("the standby has both", async || world.listed().await.len() == 2).await;
    world.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_refuses_a_replica() {
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_READ_URL", "postgres://localhost/replica")];
    let (status, log) = Binary::fail_to_start(dir.path(), &settings).await;
    assert_eq!(status.code(), Some(1));
    assert!(
        log.iter().any(|line| line.contains("DATABASE_READ_URL needs DATABASE_URL")),
        "{log:#?}"
    );
}
