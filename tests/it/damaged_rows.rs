//! A row that the store cannot write, although it can be reached, costs that row alone. What is missing for everybody
//! costs nothing.
//!
//! On PostgreSQL a trigger raises the code of a damaged page (XX001), and that of a missing right. A trigger of SQLite cannot
//! raise CORRUPT: it fails as a statement does (ERROR), which is as unclear.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hookgate::delivery::DeliveryService;
use hookgate::domain::{
    DeadLetterFilter, Delivery, DeliveryPolicy, DeliveryStatus, EventFilter, PageRequest,
};
use hookgate::runtime::Clock;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::clocks::{Server, Tenant, postgres_store, sqlite_store};
use crate::delivery::world::World;
use crate::support::answer::{answer, json};
use crate::support::client;
use crate::support::postgres::fresh_database;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// What a trigger of SQLite fails with.
pub(crate) const OVERFLOW: &str = "SELECT abs(-9223372036854775807 - 1)";

/// The database of a test, reached behind the store's back.
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Database {
    pub(crate) async fn run(&self, sqlite: &str, postgres: &str) {
        match self {
            Self::Sqlite(path) => {
                let mut connection =
                    SqliteConnectOptions::new().filename(path).connect().await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sqlite)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(postgres)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// Makes the rows of a table that meet a condition impossible to insert.
    pub(crate) async fn damage(&self, table: &str, condition: &str, code: &str) {
        let sqlite = format!(
            "CREATE TRIGGER damaged BEFORE INSERT ON {table} WHEN {condition} BEGIN {OVERFLOW}; END"
        );
        let postgres = format!(
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 RAISE EXCEPTION 'a page is damaged' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER damaged BEFORE INSERT ON {table} FOR EACH ROW WHEN ({condition})
             EXECUTE FUNCTION fail()"
        );
        self.run(&sqlite, &postgres).await;
    }

    pub(crate) async fn mend(&self, table: &str) {
        let postgres = format!("DROP TRIGGER damaged ON {table}");
        self.run("DROP TRIGGER damaged", &postgres).await;
    }

    /// Attempts the one delivery again whose retry is due in five seconds.
    async fn retry(&self, world: &World, service: &mut DeliveryService) {
        if let Self::Sqlite(_) = self {
            world.advance(Duration::from_secs(5));
        }
        for _ in 0..300 {
            match (service.run_once().await.unwrap(), self) {
                (0, Self::Postgres(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                (attempted, _) => return assert_eq!(attempted, 1),
            }
        }
        panic!("the retry is not due");
    }

    pub(crate) async fn rename(&self, from: &str, to: &str) {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        self.run(&sql, &sql).await;
    }
}

/// A world on SQLite, or on PostgreSQL at this URL.
pub(crate) async fn world(url: Option<String>, flags: &[&str]) -> (World, Database) {
    let Some(url) = url else {
        let world = World::with(flags).await;
        let file = world.directory.path().join("hookgate.db");
        return (world, Database::Sqlite(file));
    };
    let url_flag = format!("--database-url={url}");
    let flags: Vec<&str> = flags.iter().copied().chain([url_flag.as_str()]).collect();
    // What is due there is so by the database's clock, too.
    let world = World::with(&flags).await.with_system_clock();
    let database = Database::Postgres(url);
    // Deliveries from before their organisation are not listed.
    database.run("", "UPDATE orgs SET created_at = now()").await;
    (world, database)
}

fn delivered(rows: &[Delivery]) -> usize {
    rows.iter().filter(|row| row.status == DeliveryStatus::Delivered).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_outcome_stops_nobody_on_sqlite() {
    Box::pin(damaged_outcome_stops_nobody(None, "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_outcome_stops_nobody_on_postgresql() {
    Box::pin(damaged_outcome_stops_nobody(Some(fresh_database().await), "XX001")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_outcome_stops_nobody_on_postgresql() {
    Box::pin(damaged_outcome_stops_nobody(Some(fresh_database().await), "42501")).await;
}

async fn damaged_outcome_stops_nobody(url: Option<String>, code: &str) {
    let (world, database) = Box::pin(world(url, &[])).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 20).await;
    database.damage("delivery_attempts", "NEW.status_code = 418", code).await;
    receiver.answer([Answer::status(204), Answer::status(418)]);
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 20);
    assert_eq!(delivered(&world.rows().await), 19, "the others are recorded");
    world.publish("user.login", 5).await;
    assert_eq!(service.run_once().await.unwrap(), 5, "claims go on");
    assert_eq!(delivered(&world.rows().await), 24);

    // No other failure was recorded since, so it was held.
    database.mend("delivery_attempts").await;
    assert_eq!(service.run_once().await.unwrap(), 0);
    let rows = world.rows().await;
    let failed = rows.iter().find(|row| row.status == DeliveryStatus::Pending).unwrap();
    assert_eq!(failed.attempts, 1, "it is recorded once that works");
    database.retry(&world, &mut service).await;
    assert_eq!((delivered(&world.rows().await), receiver.so_far().len()), (25, 26));

    // Another failure is recorded: this one is at fault alone.
    database.run("SELECT 1", "DROP FUNCTION fail").await;
    database.damage("delivery_attempts", "NEW.status_code = 418", code).await;
    for status in [418, 500] {
        world.publish("user.login", 1).await;
        receiver.answer([Answer::status(status)]);
        assert_eq!(service.run_once().await.unwrap(), 1);
    }
    database.mend("delivery_attempts").await;
    database.retry(&world, &mut service).await;
    let rows = world.rows().await;
    assert_eq!(delivered(&rows), 26);
    let aside = rows.iter().find(|row| row.status == DeliveryStatus::Pending).unwrap();
    assert_eq!(aside.attempts, 0, "it was set aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_event_holds_back_its_own_delivery_alone_on_sqlite() {
    Box::pin(unreadable_event_holds_back_its_own_delivery_alone(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_event_holds_back_its_own_delivery_alone_on_postgresql() {
    Box::pin(unreadable_event_holds_back_its_own_delivery_alone(Some(fresh_database().await)))
        .await;
}

/// A view in the place of the events fails where it comes to the one.
async fn unreadable_event_holds_back_its_own_delivery_alone(url: Option<String>) {
    // Its end is waited for on PostgreSQL.
    let flags = ["--delivery-timeout=5s", "--delivery-lease=20s"];
    let (world, database) = Box::pin(world(url, &flags)).await;
    let (of_it, works) = (Receiver::start().await, Receiver::start().await);
    world.endpoint(&of_it, "user.*").await;
    for _ in 0..3 {
        world.endpoint(&works, "user.login").await;
    }
    world.publish("user.poison", 1).await;
    world.publish("user.login", 2).await;
    database.rename("events", "elsewhere").await;
    let sqlite = "CREATE VIEW events AS SELECT * FROM elsewhere WHERE event_type <> 'user.poison'
                  OR abs(-9223372036854775807 - length(event_type) / length(event_type))";
    let postgres = "CREATE FUNCTION fail() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                        RAISE EXCEPTION 'a page is damaged' USING ERRCODE = 'XX001'; END $$;
                    CREATE VIEW events AS SELECT * FROM elsewhere
                    WHERE event_type <> 'user.poison' OR fail()";
    database.run(sqlite, postgres).await;
    let mut service = world.delivery();
    // PostgreSQL may still have locked what a claim before failed with.
    let mut attempted = 0;
    until("all but one are attempted", async || {
        attempted += service.run_once().await.unwrap();
        attempted == 8
    })
    .await;
    assert_eq!((works.so_far().len(), of_it.so_far().len()), (6, 2), "the same endpoint's, too");
    assert_eq!(world.metrics.delivery.hookgate_endpoints_unreadable_total.get(), 1);

    database.run("DROP VIEW events", "DROP VIEW events").await;
    database.rename("elsewhere", "events").await;
    world.advance(Duration::from_secs(20));
    until("the other one is attempted", async || service.run_once().await.unwrap() == 1).await;
    assert_eq!((delivered(&world.rows().await), of_it.so_far().len()), (9, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_whose_endpoints_cannot_be_read_stops_nobody_on_sqlite() {
    Box::pin(organisation_whose_endpoints_cannot_be_read_stops_nobody(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn organisation_whose_endpoints_cannot_be_read_stops_nobody_on_postgresql() {
    let url = Some(fresh_database().await);
    Box::pin(organisation_whose_endpoints_cannot_be_read_stops_nobody(url)).await;
}

/// One of its deliveries is asked for by hand, beside what is due.
async fn organisation_whose_endpoints_cannot_be_read_stops_nobody(url: Option<String>) {
    let (mut world, database) = Box::pin(world(url, &[])).await;
    let (of_it, works) = (Receiver::start().await, Receiver::start().await);
    let endpoint = world.endpoint(&of_it, "").await;
    world.publish("user.login", 2).await;
    let (org, delivery) = (world.org, world.rows().await[0].id);
    let set = |version: i64| {
        format!("UPDATE orgs SET endpoints_version = {version} WHERE name = 'tenant'")
    };
    database.run(&set(-1), &set(-1)).await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 0, "a claim of it alone has not failed");
    world.another_org().await;
    world.endpoint(&works, "").await;
    world.publish("user.login", 3).await;
    service.handle().attempt_now(org, endpoint, delivery);
    assert_eq!(service.run_once().await.unwrap(), 3);
    assert_eq!((works.so_far().len(), of_it.so_far().len()), (3, 0));

    database.run(&set(9), &set(9)).await;
    // Those that could not be read are read again after a second.
    let mut attempted = 0;
    until("its deliveries have waited", async || {
        attempted += service.run_once().await.unwrap();
        attempted == 2
    })
    .await;
    assert_eq!(of_it.so_far().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_table_sets_no_outcome_aside_on_sqlite() {
    Box::pin(missing_table_sets_no_outcome_aside(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_table_sets_no_outcome_aside_on_postgresql() {
    Box::pin(missing_table_sets_no_outcome_aside(Some(fresh_database().await))).await;
}

async fn missing_table_sets_no_outcome_aside(url: Option<String>) {
    let (world, database) = Box::pin(world(url, &[])).await;
    let receiver = Receiver::start().await;
    world.endpoint(&receiver, "").await;
    world.publish("user.login", 20).await;
    // Failures are written elsewhere, and are recorded.
    receiver.answer([Answer::status(204), Answer::status(500)]);
    database.rename("deliveries", "elsewhere").await;
    let mut service = world.delivery();
    assert_eq!(service.run_once().await.unwrap(), 20);
    assert_eq!(service.run_once().await.unwrap(), 0, "nothing is claimed meanwhile");
    database.rename("elsewhere", "deliveries").await;
    assert_eq!(service.run_once().await.unwrap(), 0);
    assert_eq!(delivered(&world.rows().await), 19);
    database.retry(&world, &mut service).await;
    assert_eq!((delivered(&world.rows().await), receiver.so_far().len()), (20, 21));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_event_is_set_aside_alone_on_sqlite() {
    let dir = crate::support::temporary::directory();
    let database = Database::Sqlite(dir.path().join("hookgate.db"));
    Box::pin(damaged_event_is_set_aside_alone(dir.path(), database, "")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_event_is_set_aside_alone_on_postgresql() {
    let dir = crate::support::temporary::directory();
    let database = Database::Postgres(fresh_database().await);
    Box::pin(damaged_event_is_set_aside_alone(dir.path(), database, "XX001")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_event_is_set_aside_alone_on_postgresql() {
    let dir = crate::support::temporary::directory();
    let database = Database::Postgres(fresh_database().await);
    Box::pin(damaged_event_is_set_aside_alone(dir.path(), database, "42501")).await;
}

/// How often a server has tried to store a batch.
pub(crate) async fn stored_batches(server: &Server) -> u64 {
    let text = answer(client().get(format!("{}/metrics", server.url))).await.text;
    let name = r#"db_operations_latency_seconds_count{operation="persist_events"} "#;
    text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().unwrap())
}

async fn damaged_event_is_set_aside_alone(dir: &Path, database: Database, code: &str) {
    let (store, flag) = match &database {
        Database::Sqlite(_) => (sqlite_store(dir).await, None),
        Database::Postgres(url) => {
            (postgres_store(url, dir).await, Some(format!("--database-url={url}")))
        }
    };
    let flags: Vec<&str> = flag.iter().map(String::as_str).collect();
    let receiver = Receiver::start().await;
    let tenant = Tenant::create(store, &receiver, DeliveryPolicy::default()).await;
    database.damage("events", "NEW.account_id = 'poison'", code).await;
    let clock = Clock::manual(Clock::system().now());
    let server = Server::start(dir, &flags, clock.clone()).await;
    let letters = async || {
        let (filter, page) = (DeadLetterFilter::default(), PageRequest::first(10));
        tenant.store.dead_letters(tenant.org, &filter, page).await.unwrap().data
    };
    let events = async || {
        let (filter, page) = (EventFilter::default(), PageRequest::first(1000));
        tenant.store.events(tenant.org, &filter, page).await.unwrap().data.len()
    };

    let poison = r#"{"type":"a","payload":0,"account_id":"poison"}"#;
    let request = client().post(format!("{}/api/events", server.url));
    answer(json(request.header("x-api-key", &tenant.key), poison)).await.expect(202);
    // Whatever was in one batch with it would wait with it.
    until("the event is tried", async || stored_batches(&server).await > 0).await;
    let mut posted = 0;
    until("the event is a dead letter", async || {
        server.post(&tenant.key, posted).await;
        posted += 1;
        until("others are stored", async || events().await >= posted).await;
        clock.advance(Duration::from_mins(1));
        letters().await.len() == 1
    })
    .await;
    let detail = letters().await[0].detail.clone().unwrap();
    assert!(!detail.contains(" at line "), "{detail}");
    assert_eq!(events().await, posted);

    // On SQLite the thread of sqlx ends with a panic when a statement that it keeps misses its table.
    if let Database::Sqlite(_) = database {
        return server.stop();
    }
    database.rename("events", "elsewhere").await;
    let before = stored_batches(&server).await;
    for number in 0..5 {
        server.post(&tenant.key, number).await;
    }
    until("nothing is stored for minutes", async || {
        clock.advance(Duration::from_mins(1));
        stored_batches(&server).await >= before + 4
    })
    .await;
    database.rename("elsewhere", "events").await;
    until("all are stored", async || events().await == posted + 5).await;
    assert_eq!(letters().await.len(), 1, "nothing else was set aside");
    server.stop();
}
