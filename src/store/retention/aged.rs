//! Tables whose rows are deleted by their age alone. A further one is one more line here.

use uuid::Uuid;

use super::{OrgRetention, Round};
use crate::config::{RetentionConfig, days};
use crate::domain::Timestamp;
use crate::runtime::Stopwatch;
use crate::store::Result;
use crate::store::engine::{Tx, Value, args};

const HOUR_MICROS: i64 = 3_600_000_000;

/// A table with rows that are deleted by their age.
#[derive(Clone, Copy, Debug)]
pub(super) struct AgedTable {
    table: &'static str,
    /// Its primary key.
    key: &'static str,
    /// The column of the time. There is an index on it, or on `org_id` and it.
    time: &'static str,
    unit: Unit,
    /// Which of its rows.
    which: &'static str,
    kept: Kept,
}

/// What the column of the time counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    /// It is a timestamp.
    Timestamp,
    /// Hours since 1970.
    Hours,
}

/// How long rows are kept.
#[derive(Clone, Copy, Debug)]
enum Kept {
    /// As a setting says.
    Setting(fn(&RetentionConfig) -> Option<std::time::Duration>),
    /// As a setting says, or else as long as the organisation's events.
    SettingOrEvents(fn(&RetentionConfig) -> Option<std::time::Duration>),
}

/// Whose rows of a table are deleted.
#[derive(Clone, Copy, Debug)]
pub(super) enum AgedRows {
    /// An organisation's.
    Of(OrgRetention),
    /// The sums over all organisations, which have the id of none.
    Sums,
    /// All, of a table that is not by organisation.
    All,
}

/// Tables of organisations, each with an index on `org_id` and the time.
pub(super) const AGED: &[AgedTable] = &[
    AgedTable {
        table: "dead_letters",
        key: "id",
        time: "created_at",
        unit: Unit::Timestamp,
        which: "true",
        kept: Kept::SettingOrEvents(|config| config.dead_letter_retention),
    },
    AgedTable {
        table: "replays",
        key: "id",
        time: "created_at",
        unit: Unit::Timestamp,
        which: "status <> 'running'",
        kept: Kept::Setting(|config| config.replay_retention),
    },
    AgedTable {
        table: "rollup_hours",
        key: "org_id, account_id, hour",
        time: "hour",
        unit: Unit::Hours,
        which: "true",
        kept: Kept::Setting(|config| config.rollup_retention),
    },
    AgedTable {
        table: "rollup_delivery_hours",
        key: "org_id, endpoint_id, hour",
        time: "hour",
        unit: Unit::Hours,
        which: "true",
        kept: Kept::Setting(|config| config.rollup_retention),
    },
    AgedTable {
        table: "accounts",
        key: "org_id, account_id",
        time: "active_hour",
        unit: Unit::Hours,
        which: "true",
        kept: Kept::Setting(|config| config.rollup_retention),
    },
    AgedTable {
        table: "event_types",
        key: "org_id, event_type",
        time: "active_hour",
        unit: Unit::Hours,
        which: "true",
        kept: Kept::Setting(|config| config.rollup_retention),
    },
];

/// Tables with an index on the time alone.
pub(super) const AGED_OVERALL: &[AgedTable] = &[
    AgedTable {
        table: "audit_log",
        key: "id",
        time: "at",
        unit: Unit::Timestamp,
        which: "true",
        kept: Kept::Setting(|config| config.audit_retention),
    },
    AgedTable {
        table: "api_keys",
        key: "id",
        time: "expires_at",
        unit: Unit::Timestamp,
        // A store without an operator's key is taken for a new one, which gets the first keys again.
        which: "org_id IS NOT NULL",
        kept: Kept::Setting(|config| config.key_retention),
    },
];

impl AgedTable {
    /// How many days rows are kept, of an organisation that keeps its events for so many; `None` for ever.
    pub(super) fn days(&self, config: &RetentionConfig, events: Option<u32>) -> Option<u32> {
        match self.kept {
            Kept::Setting(setting) => setting(config).map(days),
            Kept::SettingOrEvents(setting) => setting(config).map(days).or(events),
        }
    }
}

impl Round<'_> {
    /// Deletes rows of a table from before a time, in steps.
    pub(super) async fn delete_aged(
        &mut self,
        table: &AgedTable,
        rows: AgedRows,
        before: Timestamp,
    ) -> Result<()> {
        let AgedTable { table, key, time, unit, which, .. } = table;
        let before = || match unit {
            Unit::Timestamp => Value::from(before),
            Unit::Hours => Value::from(before.micros().div_euclid(HOUR_MICROS)),
        };
        loop {
            let step = Stopwatch::start();
            let Some(mut tx) = self.begin_aged(rows).await? else { return Ok(()) };
            let max = self.rows_per_step();
            // What somebody else has locked is left for the next round.
            let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
            let of_org = "org_id = $3 AND ";
            let (of_org, mut args) = match rows {
                AgedRows::Of(kept) => (of_org, args![before(), max, kept.org]),
                AgedRows::Sums => (of_org, args![before(), max, Uuid::nil()]),
                AgedRows::All => ("", args![before(), max]),
            };
            let sql = format!(
                "DELETE FROM {table} WHERE ({key}) IN (
                     SELECT {key} FROM {table} WHERE {of_org}{time} < $1 AND {which}
                     ORDER BY {time} LIMIT $2{lock})"
            );
            let deleted = tx.execute(sql, std::mem::take(&mut args)).await?;
            tx.commit().await?;
            self.report.rows += deleted;
            if deleted < max as u64 {
                return Ok(());
            }
            self.pause(&step).await;
        }
    }

    async fn begin_aged(&self, rows: AgedRows) -> Result<Option<Tx<'_>>> {
        match rows {
            AgedRows::Of(kept) => self.begin_step_of(kept).await,
            AgedRows::Sums | AgedRows::All => self.begin_step().await.map(Some),
        }
    }
}
