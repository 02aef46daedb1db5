//! Which store, and how it is reached.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::secrets::{SecretsKeys, SecretsKeysParser};
use super::{parse_duration, parse_wait};

/// Which store, and how it is reached. Every command takes this section.
#[derive(Args, Clone)]
#[command(next_help_heading = "Store")]
pub struct StoreConfig {
    /// Directory for the journal and, without DATABASE_URL, the SQLite file; created when missing
    #[arg(long, env = "DATA_DIR", default_value = "./data")]
    pub data_dir: PathBuf,
    /// postgres://user:password@host/database; unset keeps everything in DATA_DIR/hookgate.db
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Connections to the store at most
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub database_connections: u32,
    /// A connection that cannot be had by then counts as a store outage
    #[arg(long, env = "DATABASE_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_wait)]
    pub database_timeout: Duration,
    /// A dedup_id of an organisation makes one event within this time
    #[arg(long, env = "DEDUP_WINDOW", value_name = "DURATION", default_value = "7d", value_parser = parse_duration)]
    pub dedup_window: Duration,
    /// Keys (32 bytes as base64) that encrypt endpoints' secrets: the first encrypts, all decrypt
    #[arg(long, env = "SECRETS_KEY", hide_env_values = true, value_name = "KEYS", value_parser = SecretsKeysParser)]
    pub secrets_key: Option<SecretsKeys>,
}

impl StoreConfig {
    /// The SQLite file: `hookgate.db` in the data directory.
    pub fn sqlite_path(&self) -> PathBuf {
        self.data_dir.join("hookgate.db")
    }

    /// The journal's directory: `journal` in the data directory.
    pub fn journal_dir(&self) -> PathBuf {
        self.data_dir.join("journal")
    }
}

/// The database URL carries a password, so it is left out; keys hide themselves.
impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("data_dir", &self.data_dir)
            .field("database_url", &self.database_url.as_ref().map(|_| "…"))
            .field("database_connections", &self.database_connections)
            .field("database_timeout", &self.database_timeout)
            .field("dedup_window", &self.dedup_window)
            .field("secrets_key", &self.secrets_key)
            .finish()
    }
}
