//! The database behind the server, reached past the server.

use std::path::{Path, PathBuf};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, SqliteConnection};
use uuid::Uuid;

use super::load::Numbered;

/// Where a server keeps its events.
#[derive(Clone, Debug)]
pub(super) enum Database {
    /// In this file.
    Sqlite(PathBuf),
    /// In the database with this URL.
    Postgres(String),
}

/// An event as it is stored.
pub(super) struct StoredEvent {
    pub(super) id: Uuid,
    /// Which of the load's events it is: its payload says so.
    pub(super) number: u64,
}

/// A lock that keeps the server from storing anything until it is let go.
pub(super) enum Hold {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Database {
    /// The SQLite file of a server with this data directory.
    pub(super) fn sqlite(data_dir: &Path) -> Self {
        Self::Sqlite(data_dir.join("hookgate.db"))
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SQLite",
            Self::Postgres(_) => "PostgreSQL",
        }
    }

    /// Every stored event, in the order of the transactions that stored them.
    pub(super) async fn events(&self) -> Vec<StoredEvent> {
        let rows: Vec<(Uuid, Vec<u8>)> = match self {
            Self::Sqlite(path) => {
                let query = sqlx::query_as("SELECT id, payload FROM events ORDER BY rowid");
                query.fetch_all(&mut sqlite(path).await).await.unwrap()
            }
            Self::Postgres(url) => {
                let query =
                    sqlx::query_as("SELECT id, payload FROM events ORDER BY xmin::text::bigint");
                query.fetch_all(&mut PgConnection::connect(url).await.unwrap()).await.unwrap()
            }
        };
        let stored = |(id, payload): (Uuid, Vec<u8>)| {
            let Numbered { n: number } = serde_json::from_slice(&payload).unwrap();
            StoredEvent { id, number }
        };
        rows.into_iter().map(stored).collect()
    }

    /// Runs a statement.
    pub(super) async fn execute(&self, sql: &'static str) {
        match self {
            Self::Sqlite(path) => drop(sqlite(path).await.execute(sql).await.unwrap()),
            Self::Postgres(url) => {
                drop(PgConnection::connect(url).await.unwrap().execute(sql).await.unwrap());
            }
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
        }
    }
}

impl Hold {
    pub(super) async fn release(self) {
        match self {
            Self::Sqlite(mut connection) => drop(connection.execute("ROLLBACK").await.unwrap()),
            Self::Postgres(mut connection) => drop(connection.execute("ROLLBACK").await.unwrap()),
        }
    }
}

async fn sqlite(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.busy_timeout(super::station::PATIENCE).connect().await.unwrap()
}
