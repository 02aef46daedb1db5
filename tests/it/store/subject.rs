//! A store under test.

use std::path::PathBuf;
use std::time::Duration;

use hookgate::config::{SecretsKeys, StoreConfig};
use hookgate::store::Store;
use hookgate::store::StoreMetrics;
use hookgate::telemetry::Registry;
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
use tempfile::TempDir;

use crate::support::databases::RemovedLater;
use crate::support::pgbouncer::Bouncer;
use crate::support::postgres::fresh_database;
use crate::support::wait::until;

/// Makes a test for each engine of every function named, and one through a connection pooler.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::super::Subject::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::super::Subject::postgres().await).await;
            })+
        }

        /// Through PgBouncer in transaction mode.
        mod system_packages {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(&super::super::Subject::pooled().await).await;
            })+
        }
    };
}
pub(super) use on_both;

/// The dedup window of the stores under test.
pub(crate) const DEDUP_WINDOW: Duration = Duration::from_hours(1);

/// A migrated, empty store, and a way around it.
pub(crate) struct Subject {
    pub(crate) store: Store,
    database: Database,
    directory: TempDir,
    /// Dropped last.
    _removed: Option<RemovedLater>,
}

enum Database {
    Sqlite(PathBuf),
    Postgres(String),
    /// Reached by stores through PgBouncer in transaction mode.
    Pooled(Bouncer),
}

impl Database {
    /// The URL of a PostgreSQL database, past a pooler.
    fn direct(&self) -> Option<&str> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(url) | Self::Pooled(Bouncer { direct: url, .. }) => Some(url),
        }
    }
}

impl Subject {
    pub(crate) async fn sqlite() -> Self {
        let directory = crate::support::temporary::directory();
        // Two levels down, to see that the directory is made.
        let database = Database::Sqlite(directory.path().join("data").join("hookgate.db"));
        Self::migrated(database, directory).await
    }

    pub(crate) async fn postgres() -> Self {
        let database = Database::Postgres(fresh_database().await);
        Self::migrated(database, crate::support::temporary::directory()).await
    }

    pub(crate) async fn pooled() -> Self {
        let database = Database::Pooled(Bouncer::start("transaction", 4).await);
        Self::migrated(database, crate::support::temporary::directory()).await
    }

    async fn migrated(database: Database, directory: TempDir) -> Self {
        let store = open(&database, config(directory.path().to_owned())).await;
        store.migrate_up().await.unwrap();
        let removed = database.direct().map(|url| RemovedLater(url.to_owned()));
        Self { store, database, directory, _removed: removed }
    }

    /// Another instance on the same database.
    pub(crate) async fn another(&self) -> Store {
        self.another_with(None).await
    }

    /// Another instance on the same database, with these keys for secrets.
    pub(crate) async fn another_with(&self, secrets_key: Option<SecretsKeys>) -> Store {
        self.another_set(|config| StoreConfig { secrets_key, ..config }).await
    }

    /// Another instance on the same database, with these settings.
    pub(crate) async fn another_set(
        &self,
        settings: impl FnOnce(StoreConfig) -> StoreConfig,
    ) -> Store {
        open(&self.database, settings(config(self.directory.path().to_owned()))).await
    }

    /// A connection behind the store's back.
    pub(crate) async fn connect_postgres(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }

    pub(crate) fn is_postgres(&self) -> bool {
        !matches!(self.database, Database::Sqlite(_))
    }

    /// Commits a transaction of another connection, PostgreSQL's, once somebody waits for it.
    pub(crate) async fn commit_awaited(&self, mut other: PgConnection) {
        self.until_awaited().await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    }

    /// Waits until somebody waits for a lock, PostgreSQL's.
    pub(crate) async fn until_awaited(&self) {
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until("somebody waits for a lock", async || self.count(waits).await != 0).await;
    }

    /// Runs SQL behind the store's back.
    pub(crate) async fn raw(&self, sqlite: &str, postgres: &str) {
        match &self.database {
            Database::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sqlite)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Database::Postgres(url) | Database::Pooled(Bouncer { direct: url, .. }) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(postgres)).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// Whether SQL behind the store's back fails as one transaction.
    pub(crate) async fn refuses(&self, sql: &str) -> bool {
        let sql = format!("BEGIN; {sql}; COMMIT");
        match &self.database {
            Database::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.is_err()
            }
            Database::Postgres(url) | Database::Pooled(Bouncer { direct: url, .. }) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.is_err()
            }
        }
    }

    /// The length of SQLite's write-ahead log.
    pub(crate) fn wal_bytes(&self) -> Option<u64> {
        match &self.database {
            Database::Sqlite(path) => {
                let wal = path.with_file_name("hookgate.db-wal");
                Some(std::fs::metadata(wal).unwrap().len())
            }
            Database::Postgres(_) | Database::Pooled(_) => None,
        }
    }

    /// Where the PostgreSQL database is.
    pub(crate) fn url(&self) -> String {
        self.database.direct().expect("not in PostgreSQL").to_owned()
    }

    /// The tables that have this column, partitions left out.
    pub(crate) async fn tables_with(&self, column: &str) -> Vec<String> {
        match &self.database {
            Database::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                let query = sqlx::query_scalar(
                    "SELECT t.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
                     WHERE t.type = 'table' AND c.name = ?1",
                );
                query.bind(column).fetch_all(&mut connection).await.unwrap()
            }
            Database::Postgres(url) | Database::Pooled(Bouncer { direct: url, .. }) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let query = sqlx::query_scalar(
                    "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
                     WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attname = $1",
                );
                query.bind(column).fetch_all(&mut connection).await.unwrap()
            }
        }
    }

    /// The one number that a query answers with.
    pub(crate) async fn count(&self, sql: &str) -> i64 {
        match &self.database {
            Database::Sqlite(path) => {
                let url = format!("sqlite://{}", path.display());
                let mut connection = SqliteConnection::connect(&url).await.unwrap();
                let query = sqlx::query_scalar(AssertSqlSafe(sql));
                query.fetch_one(&mut connection).await.unwrap()
            }
            Database::Postgres(url) | Database::Pooled(Bouncer { direct: url, .. }) => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                let query = sqlx::query_scalar(AssertSqlSafe(sql));
                query.fetch_one(&mut connection).await.unwrap()
            }
        }
    }
}

async fn open(database: &Database, config: StoreConfig) -> Store {
    let metrics = StoreMetrics::register(&Registry::new()).unwrap();
    match database {
        Database::Sqlite(path) => Store::open_sqlite(path, &config, metrics).await.unwrap(),
        Database::Postgres(url) => Store::connect_postgres(url, &config, metrics).await.unwrap(),
        Database::Pooled(bouncer) => {
            let config = StoreConfig { database_prepared: false, ..config };
            Store::connect_postgres(&bouncer.url, &config, metrics).await.unwrap()
        }
    }
}

/// Settings of a store for tests.
pub(crate) fn config(data_dir: PathBuf) -> StoreConfig {
    let dedup_window = DEDUP_WINDOW;
    StoreConfig { database_connections: 8, dedup_window, ..StoreConfig::in_directory(data_dir) }
}
