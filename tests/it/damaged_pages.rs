//! A page of deliveries that is really damaged, in the file of the database, costs what is on it, and everybody else's
//! webhooks go on.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use hookgate::delivery::DeliveryService;
use hookgate::domain::{
    DeliveryPolicyChange, EndpointId, InstanceId, Lease, LeaseToken, SigningSecret,
};
use hookgate::runtime::Lifecycle;
use hookgate::store::LeaseGrant;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::block_in_place;

use crate::damaged_rows::world;
use crate::delivery::world::World;
use crate::support::postgres::PrivatePostgres;
use crate::support::receiver::Receiver;
use crate::support::wait::until;

/// Deliveries of the endpoint at fault: they fill some pages.
const OF_IT: usize = 400;

/// Endpoints that one look at every endpoint names at most.
const OF_A_LOOK: usize = 128;

/// One endpoint with many deliveries, and two others with three each that came later.
struct Filled {
    world: World,
    postgres: Option<PrivatePostgres>,
    of_it: (EndpointId, Receiver),
    others: ([EndpointId; 2], Receiver),
}

impl Filled {
    async fn on(postgres: Option<PrivatePostgres>) -> Self {
        Self::with(postgres, DeliveryPolicyChange::default()).await
    }

    /// The endpoint at fault has this policy.
    async fn with(postgres: Option<PrivatePostgres>, policy: DeliveryPolicyChange) -> Self {
        let url = match &postgres {
            Some(postgres) => Some(postgres.fresh_database().await),
            None => None,
        };
        let (world, _) = Box::pin(world(url, &["--delivery-poll-interval=20ms"])).await;
        let (receiver, works) = (Receiver::start().await, Receiver::start().await);
        let endpoint = world.endpoint(&receiver, "user.signup").await;
        world.set_policy(endpoint, policy).await;
        let others = [
            world.endpoint(&works, "user.login").await,
            world.endpoint(&works, "user.login").await,
        ];
        world.publish("user.signup", OF_IT).await;
        world.clock.advance(Duration::from_secs(1));
        world.publish("user.login", 3).await;
        Self { world, postgres, of_it: (endpoint, receiver), others: (others, works) }
    }

    /// Damages a page with deliveries of the endpoint at fault alone: in SQLite one of this index, that with the smallest
    /// keys, and in PostgreSQL one of the table.
    async fn damage(&self, index: &str) {
        match &self.postgres {
            Some(postgres) => self.damage_postgres(postgres).await,
            None => self.damage_sqlite(index).await,
        }
    }

    async fn damage_sqlite(&self, index: &str) {
        let file = self.world.directory.path().join("hookgate.db");
        let mut database = SqliteConnectOptions::new().filename(&file).connect().await.unwrap();
        sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut database).await.unwrap();
        let size = sqlx::query_scalar::<_, i64>("PRAGMA page_size");
        let size = size.fetch_one(&mut database).await.unwrap();
        let root = sqlx::query_scalar("SELECT rootpage FROM sqlite_master WHERE name = $1");
        let root = root.bind(index).fetch_one(&mut database).await.unwrap();
        overwrite(&file, size, first_leaf(&file, size, root) - 1);
        // The other connections now read again what they have cached.
        let write = "UPDATE change_counter SET number = number + 1";
        sqlx::raw_sql(write).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
    }

    async fn damage_postgres(&self, postgres: &PrivatePostgres) {
        let url = self.world.store_config(None).1.database_url.unwrap();
        let mut database = PgConnection::connect(&url).await.unwrap();
        let file =
            sqlx::query_scalar::<_, String>("SELECT pg_relation_filepath('pending_deliveries')");
        let file = file.fetch_one(&mut database).await.unwrap();
        let page = sqlx::query_scalar::<_, i64>(
            "SELECT (ctid::text::point)[0]::bigint AS page FROM pending_deliveries
             GROUP BY page HAVING bool_and(endpoint_id = $1) ORDER BY page LIMIT 1",
        );
        let page = page.bind(self.of_it.0.uuid()).fetch_one(&mut database).await.unwrap();
        // A small table, or one that is not known, would be read as a whole.
        sqlx::raw_sql("VACUUM ANALYZE pending_deliveries").execute(&mut database).await.unwrap();
        let by_index = "DO $$ BEGIN EXECUTE format(
            'ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$";
        sqlx::raw_sql(by_index).execute(&mut database).await.unwrap();
        database.close().await.unwrap();
        block_in_place(|| {
            postgres.stop_politely();
            overwrite(&postgres.data().join(file), 8_192, page);
            postgres.start_again();
        });
    }
}

/// Attempts what is due until so many attempts were made. A claim fails while PostgreSQL is not there yet, and where it is
/// for the endpoint at fault alone; after one that failed, rows may still be locked.
async fn attempt(service: &mut DeliveryService, attempts: usize) {
    let mut attempted = 0;
    until("all are attempted", async || {
        attempted += service.run_once().await.unwrap_or(0);
        attempted == attempts
    })
    .await;
}

/// The first leaf of an index of SQLite, by the page of its root: an inner page begins with a 2 and has, behind 12 bytes, the
/// places of its cells, each of which begins with a page (<https://www.sqlite.org/fileformat2.html>).
fn first_leaf(file: &Path, page_bytes: i64, root: i64) -> i64 {
    let (file, mut page) = (OpenOptions::new().read(true).open(file).unwrap(), root);
    loop {
        let mut bytes = vec![0; usize::try_from(page_bytes).unwrap()];
        let place = u64::try_from((page - 1) * page_bytes).unwrap();
        file.read_exact_at(&mut bytes, place).unwrap();
        if bytes[0] != 2 {
            assert_eq!(bytes[0], 10, "a leaf");
            return page;
        }
        let cell = usize::from(u16::from_be_bytes([bytes[12], bytes[13]]));
        page = i64::from(u32::from_be_bytes(bytes[cell..cell + 4].try_into().unwrap()));
    }
}

/// Overwrites a page with what no page has.
fn overwrite(file: &Path, page_bytes: i64, page: i64) {
    let file = OpenOptions::new().write(true).open(file).unwrap();
    let bytes = vec![0xff; usize::try_from(page_bytes).unwrap()];
    file.write_all_at(&bytes, u64::try_from(page * page_bytes).unwrap()).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_page_of_due_deliveries_stops_nobody_else_on_sqlite() {
    Box::pin(damaged_page_of_due_deliveries_stops_nobody_else(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_page_of_due_deliveries_stops_nobody_else_on_postgresql() {
    let postgres = block_in_place(PrivatePostgres::start);
    Box::pin(damaged_page_of_due_deliveries_stops_nobody_else(Some(postgres))).await;
}

async fn damaged_page_of_due_deliveries_stops_nobody_else(postgres: Option<PrivatePostgres>) {
    let filled = Filled::on(postgres).await;
    filled.damage("pending_due").await;
    let mut service = filled.world.delivery();
    attempt(&mut service, 6).await;
    assert_eq!((filled.others.1.so_far().len(), filled.of_it.1.so_far().len()), (6, 0));
    filled.world.publish("user.login", 2).await;
    attempt(&mut service, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_page_of_lapsed_leases_keeps_no_other_from_being_sent_on_sqlite() {
    Box::pin(damaged_page_of_lapsed_leases_keeps_no_other_from_being_sent(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_page_of_lapsed_leases_keeps_no_other_from_being_sent_on_postgresql() {
    let postgres = block_in_place(PrivatePostgres::start);
    Box::pin(damaged_page_of_lapsed_leases_keeps_no_other_from_being_sent(Some(postgres))).await;
}

async fn damaged_page_of_lapsed_leases_keeps_no_other_from_being_sent(
    postgres: Option<PrivatePostgres>,
) {
    let filled = Filled::on(postgres).await;
    let (world, now) = (&filled.world, filled.world.clock.schedule());
    // What two servers had leased that are gone. The tokens of the one that claims lie between theirs.
    let of_it = [filled.of_it.0];
    for (server, endpoints) in [(0, &of_it[..]), (3, &filled.others.0[..])] {
        let lease = Lease { token: LeaseToken::mint(InstanceId::new(server)), until: now };
        let grant = |endpoint: &EndpointId| LeaseGrant {
            endpoint: *endpoint,
            org: world.org,
            ordered: false,
            deliveries_max: OF_IT,
            bytes_max: usize::MAX,
        };
        let grants: Vec<LeaseGrant> = endpoints.iter().map(grant).collect();
        let leased = world.store.system().lease_deliveries(&grants, lease, now);
        assert_eq!(leased.await.unwrap().deliveries.len(), if server == 0 { OF_IT } else { 6 });
    }
    filled.damage("pending_leases").await;
    let mut service = world.delivery();
    attempt(&mut service, 6).await;
    assert_eq!((filled.others.1.so_far().len(), filled.of_it.1.so_far().len()), (6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_page_of_ordered_deliveries_keeps_no_later_endpoint_waiting_on_sqlite() {
    Box::pin(damaged_page_of_ordered_deliveries_keeps_no_later_endpoint_waiting(None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_page_of_ordered_deliveries_keeps_no_later_endpoint_waiting_on_postgresql() {
    let postgres = block_in_place(PrivatePostgres::start);
    let waits = damaged_page_of_ordered_deliveries_keeps_no_later_endpoint_waiting(Some(postgres));
    Box::pin(waits).await;
}

/// The ordered endpoints whose deliveries are to be found are not among those that the first look names.
async fn damaged_page_of_ordered_deliveries_keeps_no_later_endpoint_waiting(
    postgres: Option<PrivatePostgres>,
) {
    let ordered = DeliveryPolicyChange { ordered: Some(true), ..DeliveryPolicyChange::default() };
    let filled = Filled::with(postgres, ordered.clone()).await;
    let (world, idle) = (&filled.world, Receiver::start().await);
    for _ in 0..OF_A_LOOK {
        let secret = SigningSecret::generate().unwrap();
        world.endpoint_at(&idle.url("/hook"), "user.other", secret).await;
    }
    let later = [Receiver::start().await, Receiver::start().await];
    for receiver in &later {
        let endpoint = world.endpoint(receiver, "user.order").await;
        world.set_policy(endpoint, ordered.clone()).await;
    }
    let events = world.publish("user.order", 2).await;
    filled.damage("pending_ordered").await;
    let lifecycle = Lifecycle::new();
    world.delivery().start(&lifecycle);
    for receiver in &later {
        let received = receiver.received(events.len()).await;
        let ids: Vec<_> = received.iter().map(|one| one.header("webhook-id")).collect();
        assert_eq!(ids, events.iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    filled.others.1.received(6).await;
    assert_eq!(filled.of_it.1.so_far().len(), 0, "its oldest delivery cannot be read");
    assert!(lifecycle.drain(Duration::from_secs(30)).await);
}
