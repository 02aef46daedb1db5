//! A primary that is gone: its standby lacks what it committed last, or it has become unreachable.

use std::net::SocketAddr;
use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, block_in_place};

use super::{post, stored};
use crate::support::answer::{answer, json};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::faulty::{Act, Faulty};
use crate::support::postgres::PrivatePostgres;
use crate::support::wait::until;

async fn scalar<T>(connection: &mut PgConnection, sql: &str) -> T
where
    (T,): for<'r> FromRow<'r, PgRow>,
    T: Send + Unpin,
{
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await.unwrap()
}

/// Makes an organisation of the name `slow`, and returns a key of it.
async fn another_org(server: &Binary, operator: &str) -> String {
    let made = async |path: &str, body: &'static str| {
        let request = client().post(format!("{}{path}", server.base_url));
        answer(json(request.header("x-api-key", operator), body)).await.expect(201)
    };
    let org = made("/api/admin/orgs", r#"{"name":"slow"}"#).await;
    let keys = format!("/api/admin/orgs/{}/keys", org["id"].as_str().unwrap());
    made(&keys, r#"{"name":"slow"}"#).await["key"].as_str().unwrap().to_owned()
}

/// The standby has the last mark, and lacks what was stored after it, when it is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn running_server_stores_again_what_a_promoted_standby_lacks() {
    let primary = block_in_place(PrivatePostgres::start);
    let database = primary.fresh_database().await.rsplit('/').next().unwrap().to_owned();
    let standby = block_in_place(|| primary.standby());
    let url = format!("postgres://postgres@{},{}/{database}", primary.host(), standby.host());
    let dir = crate::support::temporary::directory();
    let mut server = Binary::start(dir.path(), &[("DATABASE_URL", &url)]).await;
    let (key, operator) = server.first_keys().await;
    let slow_key = another_org(&server, &operator).await;
    post(&server, &key, 20).await;
    stored(&standby.url(&database), 20).await;

    // Marks wait, and so does one organisation: the others' events are stored between two marks, behind one that is not.
    let mut locks = PgConnection::connect(&primary.url(&database)).await.unwrap();
    let lock = "SET lock_timeout = 0; BEGIN; LOCK TABLE journals IN EXCLUSIVE MODE;
                SELECT FROM orgs WHERE name = 'slow' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut locks).await.unwrap();
    post(&server, &slow_key, 1).await;
    let written: String = scalar(&mut locks, "SELECT pg_current_wal_lsn()::text").await;
    let mut behind = PgConnection::connect(&standby.url(&database)).await.unwrap();
    let received = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    until("the standby has it all", async || scalar(&mut behind, &received).await).await;
    block_in_place(|| standby.stop());
    post(&server, &key, 15).await;
    stored(&primary.url(&database), 35).await;
    block_in_place(|| primary.stop());
    block_in_place(|| {
        standby.start_again();
        standby.promote();
    });
    stored(&standby.url(&database), 36).await;
    post(&server, &key, 5).await;
    stored(&standby.url(&database), 41).await;
    let log = server.stop().await;
    assert!(log.iter().any(|line| line.contains("stored again where it is missing")), "{log:#?}");
}

/// The number of the change that is lost is that of the next one, so versions alone do not tell that there was one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_an_endpoint_that_is_removed_after_a_promoted_standby_lost_a_change_of_it()
 {
    let primary = block_in_place(PrivatePostgres::start);
    let database = primary.fresh_database().await.rsplit('/').next().unwrap().to_owned();
    let standby = block_in_place(|| primary.standby());
    let url = format!("postgres://postgres@{},{}/{database}", primary.host(), standby.host());
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_URL", url.as_str()), ("ALLOW_PRIVATE_ENDPOINTS", "true")];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    let (kept, removed) =
        (Faulty::start(|_| Act::Answer).await, Faulty::start(|_| Act::Answer).await);
    let mut paths = Vec::new();
    for receiver in [&kept, &removed] {
        let body = format!(r#"{{"url":"{}"}}"#, receiver.url());
        let request = client().post(format!("{}/api/endpoints", server.base_url));
        let made = answer(json(request.header("x-api-key", &key), body)).await.expect(201);
        paths.push(format!("{}/api/endpoints/{}", server.base_url, made["id"].as_str().unwrap()));
    }
    post(&server, &key, 1).await;
    kept.requested(1).await;
    removed.requested(1).await;
    let mut connection = PgConnection::connect(&primary.url(&database)).await.unwrap();
    let written: String = scalar(&mut connection, "SELECT pg_current_wal_lsn()::text").await;
    let mut behind = PgConnection::connect(&standby.url(&database)).await.unwrap();
    let received = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
    until("the standby has it all", async || scalar(&mut behind, &received).await).await;

    block_in_place(|| standby.stop());
    let change = client().patch(&paths[1]).header("x-api-key", &key);
    answer(json(change, r#"{"description":"lost"}"#)).await.expect(200);
    block_in_place(|| primary.stop());
    block_in_place(|| {
        standby.start_again();
        standby.promote();
    });
    until("the endpoint is removed", async || {
        let removed = answer(client().delete(&paths[1]).header("x-api-key", &key)).await;
        matches!(removed.status.as_u16(), 204 | 404)
    })
    .await;
    until("nothing is sent to it any more", async || {
        let (before, all) = (removed.requests(), kept.requests());
        post(&server, &key, 1).await;
        kept.requested(all + 1).await;
        removed.requests() == before
    })
    .await;
    // From then on.
    let (before, all) = (removed.requests(), kept.requests());
    post(&server, &key, 5).await;
    kept.requested(all + 5).await;
    assert_eq!(removed.requests(), before);
    server.stop().await;
}

/// What of a host that becomes unreachable is not answered any more.
#[derive(Clone, Copy)]
enum Unanswered {
    /// Nothing on its connections.
    Everything,
    /// Whether it is there, and what follows: it vanishes as soon as what is in flight is answered.
    Pings,
}

/// All that sqlx sends to find out whether a connection works: a `Sync` message.
const PING: [u8; 5] = [b'S', 0, 0, 0, 4];

/// A host that becomes unreachable: its connections are not answered any more, and none is closed.
struct Vanishing {
    address: SocketAddr,
    gone: watch::Sender<()>,
    /// Ends when this is dropped.
    _serving: JoinSet<()>,
}

impl Vanishing {
    async fn before(host: String, unanswered: Unanswered) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gone = watch::Sender::new(());
        let going = gone.subscribe();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let (host, mut going) = (host.clone(), going.clone());
                going.mark_unchanged();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(&host).await.unwrap();
                    match unanswered {
                        Unanswered::Everything => tokio::select! {
                            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                            _ = going.changed() => std::future::pending().await,
                        },
                        Unanswered::Pings => copy_until_a_ping(client, server, going).await,
                    }
                });
            }
        });
        Self { address, gone, _serving: serving }
    }

    /// The connections of now end in nothing. Later ones reach the database.
    fn vanish(&self) {
        self.gone.send_replace(());
    }
}

/// Copies both ways; once the host is gone, until the client asks whether it is there.
async fn copy_until_a_ping(client: TcpStream, server: TcpStream, going: watch::Receiver<()>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let read = from_client.read(&mut bytes).await.unwrap_or(0);
            if read == 0 {
                return;
            }
            if bytes[..read] == PING && going.has_changed().unwrap_or(false) {
                std::future::pending::<()>().await;
            }
            if to_server.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn session_that_ends_as_its_host_vanishes_gives_its_place_in_the_pool_back() {
    let database = block_in_place(PrivatePostgres::start);
    let name = database.fresh_database().await.rsplit('/').next().unwrap().to_owned();
    let host = Vanishing::before(database.host(), Unanswered::Pings).await;
    let url = format!("postgres://postgres@{}/{name}", host.address);
    let dir = crate::support::temporary::directory();
    // So there is one connection for looking up keys.
    let settings =
        [("DATABASE_URL", &*url), ("DATABASE_CONNECTIONS", "8"), ("DATABASE_TIMEOUT", "1s")];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (_, operator) = server.first_keys().await;
    let keys = [another_org(&server, &operator).await, another_org(&server, &operator).await];

    let mut other = PgConnection::connect(&database.url(&name)).await.unwrap();
    let lock = "BEGIN; LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let status = async |key: &str| {
        let request = client().get(format!("{}/api/org", server.base_url));
        request.header("x-api-key", key).send().await.unwrap().status().as_u16()
    };
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    until("a look-up waits", async || {
        // The one that waits, or one that finds no connection.
        let _ = tokio::time::timeout(Duration::from_millis(100), status(&keys[0])).await;
        scalar::<i64>(&mut other, waiting).await > 0
    })
    .await;
    host.vanish();
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    for key in &keys {
        until("keys are looked up again", async || status(key).await == 200).await;
    }
    server.stop().await;
    drop(host);
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_of_an_unreachable_host_is_not_waited_for_for_ever() {
    let database = block_in_place(PrivatePostgres::start);
    let name = database.fresh_database().await.rsplit('/').next().unwrap().to_owned();
    let host = Vanishing::before(database.host(), Unanswered::Everything).await;
    let url = format!("postgres://postgres@{}/{name}", host.address);
    let dir = crate::support::temporary::directory();
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_TIMEOUT", "1s")];
    let mut server = Binary::start(dir.path(), &settings).await;
    let (key, _) = server.first_keys().await;
    post(&server, &key, 5).await;
    stored(&database.url(&name), 5).await;

    let mut other = PgConnection::connect(&database.url(&name)).await.unwrap();
    let lock = "BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    post(&server, &key, 5).await;
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    until("events wait", async || scalar::<i64>(&mut other, waiting).await > 0).await;
    host.vanish();
    // The database knows nothing of those sessions any more.
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE pid <> pg_backend_pid() AND datname = current_database()";
    assert!(scalar::<i64>(&mut other, ended).await > 0);
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    stored(&database.url(&name), 10).await;
    post(&server, &key, 5).await;
    stored(&database.url(&name), 15).await;
    server.stop().await;
    drop(host);
}
