//! PostgreSQL, version 15 or later: for more than one machine, or more than one disk can take.
//!
//! # Operation
//! A pool of connections; every method is one statement where that is possible, and a batch is one
//! statement over arrays (`unnest`) whatever its size. `events`, `deliveries` and
//! `delivery_attempts` are partitioned by the day the event was accepted; a statement that knows
//! that moment touches one partition. [`Maintenance`](super::Maintenance) makes the days to come.
//!
//! Instances share the tables without knowing each other. Claims pass over rows that another one
//! has locked (`SKIP LOCKED`); batches lock shared rows in key order. Removing or disabling an
//! endpoint does not wait for batches that are planning deliveries to it: what slips through is
//! cancelled or parked by the claim that finds it.
//!
//! # Failure
//! No connection within `DATABASE_TIMEOUT`, a statement or lock that takes too long, a lost
//! deadlock, a server that stops: [`StoreError::Unavailable`], and the transaction is rolled back.

mod audit;
mod cancels;
mod claims;
mod dead_letters;
mod deletion;
mod deliveries;
mod endpoints;
mod events;
mod keys;
mod maintenance;
mod orgs;
mod replays;
mod secrets;
mod standings;
mod usage;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use time::OffsetDateTime;

use super::StoreError;
use super::seal::Keyring;
use crate::config::StoreConfig;
use crate::domain::Timestamp;
use crate::telemetry::Metrics;

/// The store in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    pool: PgPool,
    dedup_window: Duration,
    keyring: Keyring,
    metrics: Arc<Metrics>,
}

/// What every connection is set to, whatever the server's or the role's defaults are.
const SETTINGS: [(&str, &str); 9] = [
    // An accepted event may leave the journal once it is committed here.
    ("synchronous_commit", "on"),
    // Far above any statement's share, and below the patience of whoever waits for it.
    ("statement_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "60s"),
    // A plan for the values at hand leaves out partitions and filters that do not matter to them.
    ("plan_cache_mode", "force_custom_plan"),
    // Every join here looks up some hundred rows by their key, and every list is the start of an
    // index. A planner that has no statistics of today's partition yet reads all pending rows
    // instead, which grows with the backlog; so the ways that start by reading everything are shut.
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("random_page_cost", "1.1"),
];

impl PostgresStore {
    /// Connects to a database. Does not migrate.
    pub async fn connect(
        url: &str,
        config: &StoreConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        // sqlx sets TimeZone to UTC by itself.
        let options = PgConnectOptions::from_str(url)?
            .application_name("hookgate")
            .options(SETTINGS)
            .disable_statement_logging();
        let connecting = PgPoolOptions::new()
            .max_connections(config.database_connections)
            .acquire_timeout(config.database_timeout)
            .connect_with(options.clone());
        let pool = match connecting.await {
            // A pool tries again until its time is up and then forgets why; one connection knows.
            Err(sqlx::Error::PoolTimedOut) => return Err(why_unreachable(&options, config).await),
            pool => pool?,
        };
        let keyring = Keyring::new(config.secrets_key.as_ref())?;
        Ok(Self { pool, dedup_window: config.dedup_window, keyring, metrics })
    }
}

async fn why_unreachable(options: &PgConnectOptions, config: &StoreConfig) -> StoreError {
    let why = match tokio::time::timeout(config.database_timeout, options.connect()).await {
        Ok(Err(why)) => why,
        Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
    };
    why.into()
}

/// A moment as a parameter.
fn moment(at: Timestamp) -> OffsetDateTime {
    at.into()
}
