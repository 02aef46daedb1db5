//! Receives and settles in PostgreSQL, each in one statement.

use sqlx::AssertSqlSafe;

use super::counts::count;
use super::types::{EVENTS_LOOKED_AT_MAX, of_many_types, of_type, type_args, types_of_inbox};
use super::{
    IS_READ, InboxSettle, Leased, ReceiveRequest, Rows, SettledRow, none_in_flight, rows_to_read,
};
use crate::domain::{OrgId, Timestamp};
use crate::store::engine::{
    Args, Dialect, Engine, PgSession, PostgresEngine, Row, Tx, Value, answered, args, column,
    timestamptz,
};
use crate::store::{Result, Store, claims};

/// Leases what may be received.
pub(super) async fn lease(
    engine: &Engine,
    own: &PostgresEngine,
    org: OrgId,
    request: ReceiveRequest<'_>,
) -> Result<Vec<Leased>> {
    if !request.inbox.ordered {
        for rows in rows_to_read(request) {
            let (sql, args) = lease_statement(org, request, *rows);
            let mut statement = Tx::Postgres(own.for_statement().await?);
            let leased = statement.list(sql, args, Leased::read).await?;
            statement.commit().await?;
            if !leased.is_empty() {
                return Ok(leased);
            }
        }
        return Ok(Vec::new());
    }
    // One consumer at a time decides which event is next, and reads once it has the lock.
    let mut tx = engine.begin().await?;
    let lock = "SELECT id FROM endpoints WHERE id = $1 AND org_id = $2
                FOR NO KEY UPDATE SKIP LOCKED";
    if tx.optional(lock, args![request.inbox.id, org]).await?.is_none() {
        return Ok(Vec::new());
    }
    let mut leased = Vec::new();
    for rows in rows_to_read(request) {
        let (sql, args) = lease_statement(org, request, *rows);
        leased = tx.list(sql, args, Leased::read).await?;
        if !leased.is_empty() {
            break;
        }
    }
    tx.commit().await?;
    Ok(leased)
}

/// The statement that leases, with its parameters. `found` has what may be received and is locked, `fitting` adds up
/// its bytes.
fn lease_statement(org: OrgId, request: ReceiveRequest<'_>, rows: Rows) -> (String, Args<'static>) {
    const KEY: &str = "SELECT d.ctid AS place_in_table, d.id, d.due_at, d.payload_bytes
                       FROM pending_deliveries d
                       WHERE d.lease_token IS NULL AND d.endpoint_id = p.id AND d.due_at <= $3
                         AND (p.cancel_before IS NULL OR d.created_at > p.cancel_before)";
    const LOCK: &str = "LIMIT $4 FOR UPDATE SKIP LOCKED";
    let ReceiveRequest { inbox, events_max, bytes_max, event_type, lease, now } = request;
    let mut args = args![
        inbox.id,
        org,
        now,
        events_max,
        bytes_max,
        lease.until,
        lease.token.uuid(),
        inbox.settings.max_receives(),
    ];
    if matches!(rows, Rows::OfType | Rows::OfPrefix | Rows::OfManyTypes) {
        args.extend(type_args(event_type).into_iter().map(Value::from));
    }
    let found = match rows {
        // The locks on what the second limit leaves out end with the statement.
        Rows::Unordered => format!(
            "SELECT * FROM (
                 SELECT * FROM ({KEY} AND d.ordered = false ORDER BY d.due_at {LOCK}) d
                 UNION ALL
                 SELECT * FROM ({KEY} AND d.ordered = true AND NOT p.ordered
                                ORDER BY d.due_at {LOCK}) d
             ) d ORDER BY d.due_at LIMIT $4"
        ),
        Rows::BeforeOrdered => format!(
            "{KEY} AND d.ordered = false AND $4 > 0 AND {} ORDER BY d.due_at
             LIMIT 1 FOR UPDATE SKIP LOCKED",
            none_in_flight(Dialect::Postgres),
        ),
        Rows::OfType => {
            format!("{KEY} AND {} ORDER BY d.due_at {LOCK}", of_type(Dialect::Postgres, "$9"))
        }
        Rows::OfPrefix => format!(
            "SELECT d.* FROM ({}) t CROSS JOIN LATERAL ({KEY} AND {} ORDER BY d.due_at {LOCK}) d
             LIMIT $4",
            types_of_inbox(Dialect::Postgres, ("$9", "$10")),
            of_type(Dialect::Postgres, "t.event_type"),
        ),
        Rows::OfManyTypes => format!(
            "SELECT d.* FROM (
                 SELECT d.org_id, d.created_at, d.id FROM (
                     SELECT d.org_id, d.created_at, d.id, d.event_type, d.due_at
                     FROM pending_deliveries d
                     WHERE d.lease_token IS NULL AND d.endpoint_id = p.id AND d.ordered = false
                       AND d.due_at <= $3
                     ORDER BY d.due_at LIMIT {EVENTS_LOOKED_AT_MAX}
                 ) d
                 WHERE {}
             ) k
             CROSS JOIN LATERAL ({KEY} AND d.org_id = k.org_id AND d.created_at = k.created_at
                                 AND d.id = k.id FOR UPDATE SKIP LOCKED) d
             LIMIT $4",
            of_many_types(Dialect::Postgres, ("$9", "$10")),
        ),
        // The lock on the endpoint keeps other consumers out, but not those who settle.
        Rows::Head => format!(
            "SELECT d.place AS place_in_table, d.id, d.due_at, d.payload_bytes
             FROM (SELECT d.org_id, d.created_at, d.id FROM {}
                   WHERE d.lease_token IS NULL AND d.due_at <= $3) h
             CROSS JOIN LATERAL (
                 SELECT d.ctid AS place, d.id, d.due_at, d.payload_bytes
                 FROM pending_deliveries d
                 WHERE d.org_id = h.org_id AND d.created_at = h.created_at AND d.id = h.id
                 FOR UPDATE SKIP LOCKED
             ) d
             WHERE $4 > 0 AND {}",
            claims::head(Dialect::Postgres, "p.id", "p.cancel_before"),
            none_in_flight(Dialect::Postgres),
        ),
    };
    let sql = format!(
        "WITH inbox AS MATERIALIZED (
             SELECT p.id, p.ordered, p.cancel_before FROM endpoints p
             WHERE p.id = $1 AND p.org_id = $2 AND {IS_READ}
         ), found AS MATERIALIZED (
             SELECT d.* FROM inbox p CROSS JOIN LATERAL ({found}) d
         ), fitting AS MATERIALIZED (
             SELECT f.*, sum(f.payload_bytes) OVER ranking AS bytes, row_number() OVER ranking AS number
             FROM found f
             WINDOW ranking AS (ORDER BY f.due_at, f.id ROWS UNBOUNDED PRECEDING)
         )
         UPDATE pending_deliveries d
         SET due_at = $6,
             lease_token = CASE WHEN d.attempts >= $8 THEN $7::uuid END,
             attempts = CASE WHEN d.attempts >= $8 THEN d.attempts ELSE d.attempts + 1 END
         FROM fitting f
         WHERE d.ctid = f.place_in_table AND (f.bytes <= $5 OR f.number = 1)
         RETURNING d.id, d.event_id, d.event_received_at, d.attempts, f.due_at AS was_due_at,
                   d.lease_token IS NOT NULL AS is_exhausted"
    );
    (sql, args)
}

/// Moves received deliveries to the finished ones and returns which events that concerned.
///
/// A delivery that another consumer receives at the same moment is locked in its new version, which a statement that
/// began before cannot delete. The statement after it can, and the lock keeps everybody else away until then.
pub(super) async fn settle(
    store: &Store,
    settles: &[InboxSettle],
    now: Timestamp,
) -> Result<Vec<SettledRow>> {
    const STATEMENTS_MAX: usize = 2;
    let mut tx = store.engine.begin().await?;
    let mut settled = Vec::new();
    for _ in 0..STATEMENTS_MAX {
        let locked = settle_once(tx.postgres()?, settles, now).await?;
        let is_complete = locked.iter().all(Option::is_some);
        settled.extend(locked.into_iter().flatten());
        if is_complete {
            break;
        }
    }
    count(store, &mut tx, &settled, now).await?;
    tx.commit().await?;
    Ok(settled)
}

/// Settles what it can and returns the deliveries that it has locked, `None` for each that it could not settle.
async fn settle_once(
    session: &mut PgSession,
    settles: &[InboxSettle],
    now: Timestamp,
) -> Result<Vec<Option<SettledRow>>> {
    let statement = "WITH keys AS MATERIALIZED (
             SELECT d.* FROM unnest($1::uuid[], $2::uuid[], $3::uuid[])
                 AS v (org_id, endpoint_id, event_id)
             CROSS JOIN LATERAL (
                 SELECT d.org_id, d.created_at, d.id FROM pending_deliveries d
                 WHERE d.endpoint_id = v.endpoint_id AND d.event_id = v.event_id AND d.attempts > 0
                   AND d.org_id IS NOT DISTINCT FROM v.org_id
             ) d
         ), held AS MATERIALIZED (
             SELECT d.* FROM (SELECT * FROM keys ORDER BY org_id, created_at, id) k
             CROSS JOIN LATERAL (
                 SELECT d.ctid AS place, d.* FROM pending_deliveries d
                 WHERE d.org_id = k.org_id AND d.created_at = k.created_at AND d.id = k.id
                 FOR UPDATE
             ) d
         ), taken AS (
             DELETE FROM pending_deliveries d USING held h WHERE d.ctid = h.place
             RETURNING h.*
         ), finished AS (
             INSERT INTO deliveries
                 (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of,
                  status, attempts, finished_at, type_key)
             SELECT org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of,
                    'delivered', attempts, $4, type_key
             FROM taken
             RETURNING org_id, id
         )
         SELECT h.org_id, h.id, h.endpoint_id, h.event_id, h.event_received_at,
                f.id IS NOT NULL AS is_settled
         FROM held h LEFT JOIN finished f ON f.org_id = h.org_id AND f.id = h.id";
    let rows = answered(
        session.host(),
        sqlx::query(AssertSqlSafe(statement))
            .bind(column(settles, |settle| settle.org.uuid()))
            .bind(column(settles, |settle| settle.inbox.uuid()))
            .bind(column(settles, |settle| settle.event.uuid()))
            .bind(timestamptz(now))
            .persistent(session.is_prepared())
            .fetch_all(session.connection()?),
    )
    .await?;
    let read = |row: Row| {
        let is_settled: bool = row.get("is_settled")?;
        is_settled.then(|| SettledRow::read(&row)).transpose()
    };
    rows.into_iter().map(Row::Postgres).map(read).collect()
}
