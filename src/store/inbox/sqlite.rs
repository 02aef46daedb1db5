//! Receives and settles in SQLite. What may be received is looked for before the write lock is taken, so that a
//! consumer of an empty inbox keeps nobody waiting.

use std::sync::LazyLock;

use sqlx::Arguments;

use super::counts::count;
use super::types::{EVENTS_LOOKED_AT_MAX, of_many_types, of_type, type_args, types_of_inbox};
use super::{
    IS_READ, InboxSettle, Leased, ReceiveRequest, Rows, SettledRow, none_in_flight, rows_to_read,
};
use crate::domain::{OrgId, Timestamp};
use crate::store::engine::{Args, Dialect, Engine, MultiRow, Row, Script, Value, args};
use crate::store::{Result, Store, claims};

/// A delivery that may be received.
struct Candidate {
    leased: Leased,
    payload_bytes: usize,
}

/// Leases what may be received.
pub(super) async fn lease(
    engine: &Engine,
    org: OrgId,
    request: ReceiveRequest<'_>,
) -> Result<Vec<Leased>> {
    for rows in rows_to_read(request) {
        let leased = lease_some(engine, org, request, *rows).await?;
        if !leased.is_empty() {
            return Ok(leased);
        }
    }
    Ok(Vec::new())
}

async fn lease_some(
    engine: &Engine,
    org: OrgId,
    request: ReceiveRequest<'_>,
    rows: Rows,
) -> Result<Vec<Leased>> {
    let (sql, one) = candidates(org, request, rows, 1);
    if engine.optional(sql.clone(), one).await?.is_none() {
        return Ok(Vec::new());
    }
    let mut tx = engine.begin_long().await?;
    let (_, all) = candidates(org, request, rows, request.events_max);
    let read = |row: &Row| Candidate::read(row, request.inbox.settings.max_receives());
    let found = tx.list(sql, all, read).await?;
    let leased = fitting(found, request.bytes_max);
    let mut script = Script::default();
    script.push_rows(&LEASES, &leased, |arguments, row| {
        arguments.add(org.uuid())?;
        arguments.add(row.id.created_at().micros())?;
        arguments.add(row.id.uuid())?;
        arguments.add(request.lease.until.micros())?;
        arguments.add(row.is_exhausted.then(|| request.lease.token.uuid()))?;
        arguments.add(row.attempts)
    })?;
    tx.finish(script).await?;
    Ok(leased)
}

/// The statement that finds candidates, with its parameters.
fn candidates(
    org: OrgId,
    request: ReceiveRequest<'_>,
    rows: Rows,
    events_max: u32,
) -> (String, Args<'static>) {
    const COLUMNS: &str = "d.id, d.event_id, d.event_received_at, d.payload_bytes, d.attempts,
                           d.due_at AS was_due_at";
    let mut args = args![request.inbox.id, org, request.now, events_max];
    if matches!(rows, Rows::OfType | Rows::OfPrefix | Rows::OfManyTypes) {
        args.extend(type_args(request.event_type).into_iter().map(Value::from));
    }
    let of_inbox = format!("p.id = $1 AND p.org_id = $2 AND {IS_READ}");
    let by = |index: &str, condition: &str, order: &str| {
        format!(
            "SELECT {COLUMNS} FROM endpoints p CROSS JOIN {}
             WHERE {of_inbox} AND d.endpoint_id = $1 AND d.lease_token IS NULL AND {condition}
               AND d.due_at <= $3 AND (p.cancel_before IS NULL OR d.created_at > p.cancel_before)
             ORDER BY {order} LIMIT $4",
            claims::pending(Dialect::Sqlite, "d", index)
        )
    };
    let sql = match rows {
        Rows::Unordered => format!(
            "SELECT * FROM ({}) UNION ALL SELECT * FROM ({}) ORDER BY was_due_at LIMIT $4",
            by("pending_claims", "d.ordered = 0", "d.due_at"),
            by("pending_claims", "d.ordered = 1 AND NOT p.ordered", "d.due_at"),
        ),
        Rows::BeforeOrdered => {
            let may = format!("d.ordered = 0 AND {}", none_in_flight(Dialect::Sqlite));
            format!("SELECT * FROM ({}) LIMIT 1", by("pending_claims", &may, "d.due_at"))
        }
        Rows::OfType => by("pending_inbox_types", &of_type(Dialect::Sqlite, "$5"), "d.due_at"),
        // They come in the order of the index, so that nothing is sorted and the limit ends the walk.
        Rows::OfPrefix => format!(
            "SELECT {COLUMNS} FROM endpoints p CROSS JOIN ({}) t CROSS JOIN {}
             WHERE {of_inbox} AND d.endpoint_id = $1 AND d.lease_token IS NULL AND {}
               AND d.due_at <= $3 AND (p.cancel_before IS NULL OR d.created_at > p.cancel_before)
             LIMIT $4",
            types_of_inbox(Dialect::Sqlite, ("$5", "$6")),
            claims::pending(Dialect::Sqlite, "d", "pending_inbox_types"),
            of_type(Dialect::Sqlite, "t.event_type"),
        ),
        Rows::OfManyTypes => format!(
            "SELECT {COLUMNS} FROM endpoints p CROSS JOIN (
                 SELECT * FROM {}
                 WHERE d.endpoint_id = $1 AND d.lease_token IS NULL AND d.ordered = 0
                   AND d.due_at <= $3
                 ORDER BY d.due_at LIMIT {EVENTS_LOOKED_AT_MAX}
             ) d
             WHERE {of_inbox} AND (p.cancel_before IS NULL OR d.created_at > p.cancel_before) AND {}
             ORDER BY d.due_at LIMIT $4",
            claims::pending(Dialect::Sqlite, "d", "pending_claims"),
            of_many_types(Dialect::Sqlite, ("$5", "$6")),
        ),
        Rows::Head => format!(
            "SELECT {COLUMNS} FROM endpoints p, {}
             WHERE {of_inbox} AND d.lease_token IS NULL AND d.due_at <= $3 AND $4 > 0 AND {}",
            claims::head(
                Dialect::Sqlite,
                "$1",
                "(SELECT cancel_before FROM endpoints WHERE id = $1)"
            ),
            none_in_flight(Dialect::Sqlite),
        ),
    };
    (sql, args)
}

impl Candidate {
    fn read(row: &Row, max_receives: u32) -> Result<Self> {
        let received: u32 = row.get("attempts")?;
        let is_exhausted = received >= max_receives;
        let leased = Leased {
            id: row.get("id")?,
            event: (row.get("event_id")?, row.get("event_received_at")?),
            attempts: received + u32::from(!is_exhausted),
            was_due_at: row.get("was_due_at")?,
            is_exhausted,
        };
        Ok(Self { leased, payload_bytes: row.get("payload_bytes")? })
    }
}

/// The candidates whose payloads fit; at least one.
fn fitting(candidates: Vec<Candidate>, bytes_max: usize) -> Vec<Leased> {
    let mut bytes: usize = 0;
    let fits = |(number, candidate): &(usize, Candidate)| {
        bytes = bytes.saturating_add(candidate.payload_bytes);
        *number == 0 || bytes <= bytes_max
    };
    let fitting = candidates.into_iter().enumerate().take_while(fits);
    fitting.map(|(_, candidate)| candidate.leased).collect()
}

/// Hides what was received, by the keys of the rows.
static LEASES: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "UPDATE pending_deliveries
         SET due_at = o.column4, lease_token = o.column5, attempts = o.column6
         FROM (VALUES ",
        6,
        ") o
         WHERE pending_deliveries.org_id = o.column1
           AND pending_deliveries.created_at = o.column2
           AND pending_deliveries.id = o.column3",
    )
});

/// A received delivery, by the first three columns of its values: organisation, inbox and event.
macro_rules! received {
    () => {
        ") o CROSS JOIN pending_deliveries d INDEXED BY pending_received
         WHERE d.endpoint_id = o.column2 AND d.event_id = o.column3 AND d.attempts > 0
           AND +d.org_id = o.column1"
    };
}

static FINISHED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO deliveries
             (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, status,
              attempts, finished_at, type_key)
         SELECT d.org_id, d.created_at, d.id, d.event_id, d.event_received_at, d.endpoint_id,
                d.replay_of, 'delivered', d.attempts, o.column4, d.type_key
         FROM (VALUES ",
        4,
        received!(),
    )
});

static TAKEN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "DELETE FROM pending_deliveries WHERE (org_id, created_at, id) IN
             (SELECT d.org_id, d.created_at, d.id FROM (VALUES ",
        3,
        concat!(received!(), ") RETURNING org_id, id, endpoint_id, event_id, event_received_at"),
    )
});

/// Moves received deliveries to the finished ones and returns which events that concerned.
pub(super) async fn settle(
    store: &Store,
    settles: &[InboxSettle],
    now: Timestamp,
) -> Result<Vec<SettledRow>> {
    let mut tx = store.engine.begin_long().await?;
    let mut script = Script::default();
    script.push_rows(&FINISHED, settles, |arguments, settle| {
        settle.bind(arguments)?;
        arguments.add(now.micros())
    })?;
    let inserted = script.len();
    script.push_rows(&TAKEN, settles, |arguments, settle| settle.bind(arguments))?;
    let answers = tx.sqlite()?.run(script).await?;
    let taken = answers.get(inserted..).unwrap_or_default();
    let rows = taken.iter().flat_map(|answer| &answer.rows);
    let settled = rows.map(SettledRow::read).collect::<Result<Vec<_>>>()?;
    count(store, &mut tx, &settled, now).await?;
    tx.commit().await?;
    Ok(settled)
}
