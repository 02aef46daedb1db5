//! The servers that work with the database: which of them have ended, so that their leases can be released.
//!
//! A server registers each of its runs and updates a heartbeat. On PostgreSQL heartbeats are by the database's clock,
//! so that clocks of servers do not matter. A SQLite file belongs to one server, the one that holds the lock on the
//! journal beside it: every other run in it has ended, and nothing depends on heartbeats.

use super::engine::{Dialect, Engine, Row, args};
use super::{Result, System};
use crate::domain::{InstanceId, LeaseToken, Timestamp};

/// Rows of ended servers that one round of maintenance removes.
const REMOVED_PER_ROUND: usize = 1_000;
/// How old a heartbeat is when its server counts as ended: six times the interval between two.
const STALE_AFTER: &str = "interval '30 seconds'";

/// Servers that are listed at most.
const LISTED_MAX: u32 = 1_000;

/// A server as the store knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisteredServer {
    /// This run.
    pub id: InstanceId,
    /// The name of its host.
    pub host: String,
    /// The version of the program.
    pub version: String,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
    /// Its last heartbeat; of a server on a SQLite file its start.
    pub heartbeat_at: Timestamp,
    /// Whether it shows a heartbeat. A SQLite file belongs to the one server that is registered.
    pub is_alive: bool,
}

/// What a server registers of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerRow {
    /// This run.
    pub id: InstanceId,
    /// The id of its journal, which a copy of the data directory shares.
    pub journal_id: u64,
    /// Where its journal lies, which a copy does not share. Empty if that cannot be told.
    pub directory: String,
    /// The name of its host, for people.
    pub host: String,
    /// The version of the program.
    pub version: &'static str,
    /// When it started, by its own clock.
    pub started_at: Timestamp,
}

/// Another run that is registered with the id of the same journal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherServer {
    /// The run.
    pub id: InstanceId,
    /// Where its journal lies.
    pub directory: String,
    /// The name of its host.
    pub host: String,
    /// Its last heartbeat.
    pub heartbeat_at: Timestamp,
    /// Whether it has certainly ended, or shows no heartbeat for half a minute.
    pub has_ended: bool,
}

impl System<'_> {
    /// Whether heartbeats tell anything: whether several servers may use the database.
    pub fn is_shared(self) -> bool {
        matches!(&*self.0.engine, Engine::Postgres(_))
    }

    /// Registers a server, or updates its heartbeat. `now` is the server's clock, which is used where the database
    /// has none.
    pub async fn beat(self, server: &ServerRow, now: Timestamp) -> Result<()> {
        let dialect = self.0.engine.dialect();
        let clock = match dialect {
            Dialect::Sqlite => "$7",
            Dialect::Postgres => "clock_timestamp()",
        };
        let sql = format!(
            "INSERT INTO servers (id, journal_id, directory, host, version, started_at, heartbeat_at)
             VALUES ($1, $2, $3, $4, $5, $6, {clock})
             ON CONFLICT (id) DO UPDATE SET heartbeat_at = excluded.heartbeat_at"
        );
        let ServerRow { id, journal_id, directory, host, version, started_at } = server;
        let mut args = args![
            id.get().cast_signed(),
            journal_id.cast_signed(),
            directory.as_str(),
            host.as_str(),
            *version,
            *started_at,
        ];
        if dialect == Dialect::Sqlite {
            args.push(now.into());
        }
        let mut tx = self.0.engine.begin().await?;
        tx.execute(sql, args).await?;
        tx.commit().await
    }

    /// The other runs that are registered for this server's journal; on SQLite all others.
    pub async fn other_servers(self, server: &ServerRow) -> Result<Vec<OtherServer>> {
        let engine = &self.0.engine;
        let mut args = args![server.id.get().cast_signed()];
        let sql = match engine.dialect() {
            Dialect::Sqlite => {
                "SELECT id, directory, host, heartbeat_at, TRUE AS has_ended FROM servers
                 WHERE id <> $1"
                    .to_owned()
            }
            Dialect::Postgres => {
                args.push(server.journal_id.cast_signed().into());
                format!(
                    "SELECT id, directory, host, heartbeat_at,
                            heartbeat_at < clock_timestamp() - {STALE_AFTER} AS has_ended
                     FROM servers WHERE id <> $1 AND journal_id = $2"
                )
            }
        };
        let read = |row: &Row| {
            let id: i64 = row.get("id")?;
            Ok(OtherServer {
                id: InstanceId::new(id.cast_unsigned()),
                directory: row.get("directory")?,
                host: row.get("host")?,
                heartbeat_at: row.get("heartbeat_at")?,
                has_ended: row.get("has_ended")?,
            })
        };
        engine.list(sql, args, read).await
    }

    /// The servers that are registered, the newest first.
    pub async fn servers(self) -> Result<Vec<RegisteredServer>> {
        let engine = &self.0.engine;
        let is_alive = match engine.dialect() {
            Dialect::Sqlite => "TRUE".to_owned(),
            Dialect::Postgres => format!("heartbeat_at >= clock_timestamp() - {STALE_AFTER}"),
        };
        let sql = format!(
            "SELECT id, host, version, started_at, heartbeat_at, {is_alive} AS is_alive FROM servers
             ORDER BY started_at DESC, id LIMIT $1"
        );
        let read = |row: &Row| {
            let id: i64 = row.get("id")?;
            Ok(RegisteredServer {
                id: InstanceId::new(id.cast_unsigned()),
                host: row.get("host")?,
                version: row.get("version")?,
                started_at: row.get("started_at")?,
                heartbeat_at: row.get("heartbeat_at")?,
                is_alive: row.get("is_alive")?,
            })
        };
        engine.list(sql, args![LISTED_MAX], read).await
    }

    /// Removes a server's registration, unless it holds leases. Returns whether it did.
    pub async fn remove_server(self, server: InstanceId) -> Result<bool> {
        let (least, greatest) = LeaseToken::range_of(server);
        let sql = "DELETE FROM servers WHERE id = $1
                   AND NOT EXISTS (SELECT 1 FROM pending_deliveries
                                   WHERE lease_token BETWEEN $2 AND $3)";
        let args = args![server.get().cast_signed(), least.uuid(), greatest.uuid()];
        let mut tx = self.0.engine.begin().await?;
        let removed = tx.execute(sql, args).await?;
        tx.commit().await?;
        Ok(removed > 0)
    }

    /// Removes registrations of servers that have ended and hold no lease, a bounded number of them. A server that
    /// was only away for long registers itself again.
    pub(super) async fn remove_ended_servers(self) -> Result<()> {
        let engine = &self.0.engine;
        if engine.dialect() == Dialect::Sqlite {
            // Each start has removed all others.
            return Ok(());
        }
        let sql = format!(
            "SELECT id FROM servers WHERE heartbeat_at < clock_timestamp() - {STALE_AFTER}
             ORDER BY heartbeat_at LIMIT $1"
        );
        let ended = engine.list(sql, args![REMOVED_PER_ROUND], |row| row.get::<i64>("id")).await?;
        for id in ended {
            self.remove_server(InstanceId::new(id.cast_unsigned())).await?;
        }
        Ok(())
    }
}
