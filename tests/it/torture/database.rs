//! Direct access to the database of the server under test.

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::power::Copies;

/// Where a server keeps its events.
#[derive(Clone, Debug)]
pub(super) enum Database {
    /// In this file.
    Sqlite(PathBuf),
    /// In the database with this URL.
    Postgres(String),
    /// In the SQLite file on a disk whose power can be cut. Each look takes a copy: this process serves that disk, and
    /// would wait for itself if it mapped a file of it.
    Copied(Copies),
}

/// An event as it is stored.
pub(super) struct StoredEvent {
    pub(super) id: Uuid,
    /// The number in its payload.
    pub(super) number: u64,
    pub(super) event_type: String,
}

/// A delivery as it is stored, pending or finished.
pub(super) struct StoredDelivery {
    pub(super) id: Uuid,
    pub(super) event_id: Uuid,
    pub(super) endpoint_id: Uuid,
    pub(super) status: String,
}

/// A lock that keeps the server from storing anything until it is released.
pub(super) enum Hold {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A connection, with the copy that it reads.
struct Reader {
    connection: SqliteConnection,
    _copy: Option<TempDir>,
}

const IS_READ_ONLY: &str = "a copy is read only";

impl Database {
    /// The SQLite file of a server with this data directory.
    pub(super) fn sqlite(data_dir: &Path) -> Self {
        Self::Sqlite(data_dir.join("hookgate.db"))
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) | Self::Copied(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    /// Every stored event of the load, in the order of the transactions that stored them.
    pub(super) async fn events(&self) -> Vec<StoredEvent> {
        // The start of the payload holds the number; reading all of millions would take long.
        let rows: Vec<(Uuid, Vec<u8>, String)> = match self {
            Self::Sqlite(_) | Self::Copied(_) => {
                let sql = "SELECT id, substr(payload, 1, 30), event_type FROM events \
                           WHERE event_type LIKE 'torture.%' ORDER BY rowid";
                sqlx::query_as(sql).fetch_all(&mut self.reader().await.connection).await.unwrap()
            }
            Self::Postgres(url) => {
                let sql = "SELECT id, substr(payload, 1, 30), event_type FROM events \
                           WHERE event_type LIKE 'torture.%' ORDER BY xmin::text::bigint";
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap()
            }
        };
        let stored = |(id, start, event_type): (Uuid, Vec<u8>, String)| StoredEvent {
            id,
            number: number(&start),
            event_type,
        };
        rows.into_iter().map(stored).collect()
    }

    /// Every delivery.
    pub(super) async fn deliveries(&self) -> Vec<StoredDelivery> {
        let sql = "SELECT id, event_id, endpoint_id, 'pending' AS status FROM pending_deliveries
                   UNION ALL SELECT id, event_id, endpoint_id, status FROM deliveries";
        let rows: Vec<(Uuid, Uuid, Uuid, String)> = match self {
            Self::Sqlite(_) | Self::Copied(_) => {
                sqlx::query_as(sql).fetch_all(&mut self.reader().await.connection).await.unwrap()
            }
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap()
            }
        };
        let stored = |(id, event_id, endpoint_id, status)| StoredDelivery {
            id,
            event_id,
            endpoint_id,
            status,
        };
        rows.into_iter().map(stored).collect()
    }

    /// The one number that a query answers with.
    pub(super) async fn count(&self, sql: &'static str) -> i64 {
        match self {
            Self::Sqlite(_) | Self::Copied(_) => sqlx::query_scalar(sql)
                .fetch_one(&mut self.reader().await.connection)
                .await
                .unwrap(),
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap()
            }
        }
    }

    /// A connection to the SQLite file, or to a copy.
    async fn reader(&self) -> Reader {
        let copy = match self {
            Self::Sqlite(path) => return Reader { connection: sqlite(path).await, _copy: None },
            Self::Copied(copies) => copies.take(),
            Self::Postgres(_) => unreachable!("it has a URL"),
        };
        let connection = sqlite(&copy.path().join("hookgate.db")).await;
        Reader { connection, _copy: Some(copy) }
    }

    /// Runs a statement.
    pub(super) async fn execute(&self, sql: &'static str) {
        match self {
            Self::Sqlite(path) => {
                sqlite(path).await.execute(sql).await.unwrap();
            }
            Self::Postgres(url) => {
                PgConnection::connect(url).await.unwrap().execute(sql).await.unwrap();
            }
            Self::Copied(_) => panic!("{IS_READ_ONLY}"),
        }
    }

    /// Locks what events are written to.
    pub(super) async fn hold(&self) -> Hold {
        match self {
            Self::Sqlite(path) => {
                let mut connection = sqlite(path).await;
                connection.execute("BEGIN EXCLUSIVE").await.unwrap();
                Hold::Sqlite(connection)
            }
            Self::Postgres(url) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let lock = "BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE";
                connection.execute(lock).await.unwrap();
                Hold::Postgres(connection)
            }
            Self::Copied(_) => panic!("{IS_READ_ONLY}"),
        }
    }
}

impl Hold {
    pub(super) async fn release(self) {
        match self {
            Self::Sqlite(mut connection) => {
                connection.execute("ROLLBACK").await.unwrap();
            }
            Self::Postgres(mut connection) => {
                connection.execute("ROLLBACK").await.unwrap();
            }
        }
    }
}

async fn sqlite(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.busy_timeout(super::station::PATIENCE).connect().await.unwrap()
}

/// The number at the start of a payload that the load wrote.
fn number(payload: &[u8]) -> u64 {
    let text = std::str::from_utf8(payload).unwrap();
    let (number, _) = text.strip_prefix(r#"{"n":"#).unwrap().split_once(',').unwrap();
    number.parse().unwrap()
}
