//! How the deliveries of some events are found: by their keys, however many the organisation has in between.

use uuid::Uuid;

use super::Result;
use super::engine::{Args, Dialect, Tx, args};
use super::page::START_OF_TIME;
use crate::domain::{OrgId, Timestamp};

/// Keys of rows: their ids, each with its time, for statements with [`Dialect::keys`].
#[derive(Clone, Debug)]
pub(super) struct RowKeys {
    pub(super) ids: Vec<Uuid>,
    /// In microseconds.
    pub(super) times: Vec<i64>,
    pub(super) oldest: Timestamp,
    pub(super) newest: Timestamp,
}

/// Why an event has a delivery. An index has each of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DeliveryOrigin {
    /// It was planned with the event: the time in its key is the event's, to the millisecond.
    Planned,
    /// It was created later.
    Redelivered,
}

impl RowKeys {
    /// These keys, in any order.
    pub(super) fn of(keys: &[(Timestamp, Uuid)]) -> Self {
        let times = || keys.iter().map(|(at, _)| *at);
        Self {
            ids: keys.iter().map(|(_, id)| *id).collect(),
            times: times().map(Timestamp::micros).collect(),
            oldest: times().min().unwrap_or(START_OF_TIME),
            newest: times().max().unwrap_or(START_OF_TIME),
        }
    }
}

impl DeliveryOrigin {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Planned, Self::Redelivered];

    /// The parameters of [`Self::select`], for events with these keys.
    pub(super) fn args(self, org: OrgId, events: &RowKeys) -> Args<'static> {
        let RowKeys { ids, times, oldest, newest } = events.clone();
        match self {
            Self::Planned => {
                let planned = times.into_iter().map(|at| Timestamp::from_micros(at).floor_ms());
                let planned: Vec<i64> = planned.map(Timestamp::micros).collect();
                args![org, ids, oldest.floor_ms(), newest, planned]
            }
            Self::Redelivered => args![org, ids, oldest, newest],
        }
    }

    /// Its number of parameters.
    pub(super) const fn parameters(self) -> usize {
        match self {
            Self::Planned => 5,
            Self::Redelivered => 4,
        }
    }

    /// A SELECT of these columns of a table of deliveries, `d`, as far as `which` says. The `OFFSET` keeps PostgreSQL from
    /// reading all that lies between the events instead of looking each of them up.
    pub(super) fn select(
        self,
        dialect: Dialect,
        table: &'static str,
        columns: &str,
        which: &str,
    ) -> String {
        let events = dialect.keys("$2", "$5");
        match (self, dialect) {
            (Self::Planned, Dialect::Sqlite) => format!(
                "SELECT {columns} FROM ({events}) w CROSS JOIN {table} d
                      ON d.org_id = $1 AND d.created_at = w.at AND d.event_id = w.id
                 WHERE +d.created_at BETWEEN $3 AND $4 AND {which}"
            ),
            (Self::Planned, Dialect::Postgres) => format!(
                "SELECT {columns} FROM ({events}) w CROSS JOIN LATERAL (
                     SELECT * FROM {table} d
                     WHERE d.org_id = $1 AND d.created_at = w.at AND d.event_id = w.id
                       AND d.created_at BETWEEN $3 AND $4
                     OFFSET 0
                 ) d WHERE {which}"
            ),
            (Self::Redelivered, _) => format!(
                "SELECT {columns} FROM {table} d
                 WHERE {} AND d.created_at > d.event_received_at
                   AND d.event_received_at BETWEEN $3 AND $4 AND {} >= $3 AND {} AND {which}",
                dialect.any("d.event_id", "$2"),
                dialect.not_indexed("d.created_at"),
                dialect.unindexed("d.org_id", "$1"),
            ),
        }
    }
}

/// Deletes rows of an organisation by their keys: a time, and an id.
pub(super) async fn delete_by_key(
    tx: &mut Tx<'_>,
    table: &'static str,
    (at, id): (&'static str, &'static str),
    org: OrgId,
    keys: &RowKeys,
) -> Result<u64> {
    let keyed = tx.dialect().keys("$2", "$3");
    let sql = match tx.dialect() {
        Dialect::Sqlite => format!(
            "DELETE FROM {table} WHERE (org_id, {at}, {id}) IN (SELECT $1, k.at, k.id FROM ({keyed}) k)
               AND +{at} BETWEEN $4 AND $5"
        ),
        Dialect::Postgres => format!(
            "DELETE FROM {table} d USING ({keyed}) k
             WHERE d.org_id = $1 AND d.{at} = k.at AND d.{id} = k.id AND d.{at} BETWEEN $4 AND $5"
        ),
    };
    let RowKeys { ids, times, oldest, newest } = keys.clone();
    tx.execute(sql, args![org, ids, times, oldest, newest]).await
}
