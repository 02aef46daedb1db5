//! The size of the server's database. The journal is not part of it: its segments are recycled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hookgate::cli::CliError;
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

/// How long a size must stay the same to be the size of all that was accepted, and how long to wait for that.
const STEADY: Duration = Duration::from_secs(1);
const STEADY_MAX: u32 = 60;

/// Reads the size of a database.
pub(crate) enum DiskMeter {
    /// This file.
    Sqlite(PathBuf),
    /// The database of these connections.
    Postgres(PgPool),
}

impl DiskMeter {
    /// A meter of a server's database: that of the URL, or the file in its directory.
    pub(crate) fn new(database_url: Option<&str>, data_dir: &Path) -> Result<Self, sqlx::Error> {
        Ok(match database_url {
            Some(url) => Self::Postgres(PgPoolOptions::new().max_connections(1).connect_lazy(url)?),
            None => Self::Sqlite(data_dir.join("hookgate.db")),
        })
    }

    /// The size in bytes once it does not change any more, or after a minute. In SQLite pages of the write-ahead log
    /// count as if they had been copied into the file; in PostgreSQL its log does not count. Neither is vacuumed for
    /// this.
    pub(crate) async fn steady_bytes(&self) -> Result<i64, CliError> {
        let mut bytes = self.bytes().await?;
        for _ in 0..STEADY_MAX {
            tokio::time::sleep(STEADY).await;
            let now = self.bytes().await?;
            if now == bytes {
                break;
            }
            bytes = now;
        }
        Ok(bytes)
    }

    async fn bytes(&self) -> Result<i64, CliError> {
        match self {
            Self::Sqlite(file) => {
                let options = SqliteConnectOptions::new().filename(file).read_only(true);
                let mut connection = options.connect().await?;
                let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
                let bytes = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
                connection.close().await?;
                Ok(bytes)
            }
            Self::Postgres(pool) => {
                let sql = "SELECT pg_database_size(current_database())";
                Ok(sqlx::query_scalar(sql).fetch_one(pool).await?)
            }
        }
    }
}
