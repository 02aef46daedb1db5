//! How large the store is, and how old its oldest event.

use time::{OffsetDateTime, Time};

use crate::domain::Timestamp;
use crate::store::engine::{Dialect, Engine, args};
use crate::store::maintenance::{days_before, partition_name};
use crate::store::page::END_OF_TIME;
use crate::store::{Result, System};

impl System<'_> {
    /// Bytes of the database: of the file, or of all of its tables and indexes.
    pub async fn database_bytes(self) -> Result<i64> {
        let sql = match self.0.engine.dialect() {
            Dialect::Sqlite => {
                "SELECT page_count * page_size AS bytes FROM pragma_page_count(), pragma_page_size()"
            }
            Dialect::Postgres => "SELECT pg_database_size(current_database()) AS bytes",
        };
        self.0.engine.one(sql, args![]).await?.get("bytes")
    }

    /// When the oldest event was accepted; to the day where the engine has days.
    pub async fn oldest_event(self) -> Result<Option<Timestamp>> {
        let engine = match &*self.0.engine {
            Engine::Postgres(engine) => engine,
            Engine::Sqlite(_) => {
                let sql = "SELECT min(o.received_at) AS oldest FROM (
                               SELECT (SELECT e.received_at FROM events e WHERE e.org_id = orgs.id
                                       ORDER BY e.received_at LIMIT 1) AS received_at
                               FROM orgs WHERE deleted_at IS NULL) o";
                return self.0.engine.one(sql, args![]).await?.get_opt("oldest");
            }
        };
        for day in days_before(engine, "events", END_OF_TIME).await? {
            let sql = format!("SELECT 1 AS one FROM {} LIMIT 1", partition_name("events", day));
            if self.0.engine.optional(sql, args![]).await?.is_some() {
                return Ok(Some(OffsetDateTime::new_utc(day, Time::MIDNIGHT).into()));
            }
        }
        Ok(None)
    }
}
