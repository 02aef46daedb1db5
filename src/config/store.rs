//! Settings of the store.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::secrets::{SecretsKeys, SecretsKeysParser};
use super::{parse_duration, parse_wait};

/// Settings of the store. Every command takes this section.
#[derive(Args, Clone)]
#[command(next_help_heading = "Store")]
pub struct StoreConfig {
    /// Directory of the journal and, without DATABASE_URL, of the SQLite database; created if missing
    #[arg(long, env = "DATA_DIR", value_name = "DIRECTORY", default_value = "./data")]
    pub data_dir: PathBuf,
    /// PostgreSQL database, as postgres://user:password@host/database, with several hosts separated by commas;
    /// unset: SQLite in DATA_DIR/hookgate.db
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Prepare statements under names and keep settings in sessions; false for a connection pooler in transaction
    /// mode, such as PgBouncer's
    #[arg(long, env = "DATABASE_PREPARED", num_args = 0..=1, require_equals = true, default_value_t = true,
          default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub database_prepared: bool,
    /// The same database past the pooler, to listen for changes, to migrate and to back up; unset: DATABASE_URL, or only
    /// polling with DATABASE_PREPARED=false
    #[arg(long, env = "DATABASE_LISTEN_URL", value_name = "URL", hide_env_values = true)]
    pub database_listen_url: Option<String>,
    /// A replica of the PostgreSQL database, for lists, look-ups and summaries, with as many connections as DATABASE_URL
    /// has for them; unset: DATABASE_URL
    #[arg(long, env = "DATABASE_READ_URL", value_name = "URL", hide_env_values = true)]
    pub database_read_url: Option<String>,
    /// The replica gets no reads while it is further behind
    #[arg(long, env = "DATABASE_READ_LAG_MAX", value_name = "DURATION", default_value = "10s", value_parser = parse_wait)]
    pub database_read_lag_max: Duration,
    /// Maximum database connections (8 to 1000); the log tells at the start how they are divided
    #[arg(long, env = "DATABASE_CONNECTIONS", value_name = "CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(8..=1000))]
    pub database_connections: u32,
    /// Timeout for acquiring a database connection; then the store counts as unreachable
    #[arg(long, env = "DATABASE_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub database_timeout: Duration,
    /// Time limit of a list or look-up; one that takes longer is ended with 503 read_timeout
    #[arg(long, env = "READ_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub read_timeout: Duration,
    /// How long a dedup_id is remembered
    #[arg(long, env = "DEDUP_WINDOW", value_name = "DURATION", default_value = "7d", value_parser = parse_duration)]
    pub dedup_window: Duration,
    /// Comma-separated keys that encrypt endpoint secrets, each 32 bytes in base64: the first encrypts,
    /// all decrypt; unset: secrets are stored unencrypted
    #[arg(long, env = "SECRETS_KEY", hide_env_values = true, value_name = "KEYS", value_parser = SecretsKeysParser)]
    pub secrets_key: Option<SecretsKeys>,
    /// Do not ask: use a database that holds tables of something else, or knows nothing of the journal, and revert migrations
    #[arg(long)]
    pub yes: bool,
}

impl StoreConfig {
    /// The default settings, with this data directory.
    pub fn in_directory(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), ..super::defaults() }
    }

    /// The SQLite database: `hookgate.db` in the data directory.
    pub fn sqlite_path(&self) -> PathBuf {
        self.data_dir.join("hookgate.db")
    }

    /// The journal's directory: `journal` in the data directory.
    pub fn journal_dir(&self) -> PathBuf {
        self.data_dir.join("journal")
    }
}

/// Leaves out the database URL, which contains a password; keys redact themselves.
impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("data_dir", &self.data_dir)
            .field("database_url", &self.database_url.as_ref().map(|_| "…"))
            .field("database_prepared", &self.database_prepared)
            .field("database_listen_url", &self.database_listen_url.as_ref().map(|_| "…"))
            .field("database_read_url", &self.database_read_url.as_ref().map(|_| "…"))
            .field("database_read_lag_max", &self.database_read_lag_max)
            .field("database_connections", &self.database_connections)
            .field("database_timeout", &self.database_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("yes", &self.yes)
            .field("dedup_window", &self.dedup_window)
            .field("secrets_key", &self.secrets_key)
            .finish()
    }
}
