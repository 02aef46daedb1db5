//! Leases deliveries in SQLite.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use sqlx::Arguments;
use uuid::Uuid;

use super::due_index::{IS_SENT_TO, head};
use super::{
    Claimed, LeaseGrant, LeaseRequest, LeasedRow, LeasedRows, claimed, event_keys, if_readable,
};
use crate::domain::{EndpointId, Lease, Timestamp};
use crate::store::engine::{Dialect, Engine, MultiRow, Row, Script, Tx, args, id_list};
use crate::store::{Result, events};

/// A delivery that may be leased.
struct Candidate {
    leased: LeasedRow,
    payload_bytes: usize,
}

/// Leases the due deliveries of the granted endpoints.
pub(super) async fn lease(engine: &Engine, request: LeaseRequest<'_>) -> Result<Claimed> {
    let mut tx = engine.begin_long().await?;
    let (leased, mut script) = leases(&mut tx, &request).await?;
    if leased.rows.is_empty() {
        return Ok(claimed(leased, &[], request.lease));
    }
    let place = script.len();
    script.push(&EVENTS);
    script.bind(id_list(event_keys(&leased.rows).into_iter().map(|(id, _)| id.uuid())))?;
    let answers = tx.finish(script).await?;
    let events = answers.get(place).map_or(&[][..], |answer| &answer.rows);
    Ok(claimed(leased, events, request.lease))
}

/// [`lease`] without reading the events.
pub(super) async fn lease_only(engine: &Engine, request: LeaseRequest<'_>) -> Result<LeasedRows> {
    let mut tx = engine.begin_long().await?;
    let (leased, script) = leases(&mut tx, &request).await?;
    if !leased.rows.is_empty() {
        tx.finish(script).await?;
    }
    Ok(leased)
}

/// What is leased, and the statements that do it.
async fn leases(tx: &mut Tx<'_>, request: &LeaseRequest<'_>) -> Result<(LeasedRows, Script)> {
    let mut found = heads(tx, request).await?;
    found.extend(unordered(tx, request).await?);
    let leased = fitting(found, request.grants);
    let mut script = Script::default();
    push_leases(&mut script, &leased.rows, request.lease)?;
    Ok((leased, script))
}

/// The columns that [`Candidate::read`] reads of pending deliveries `d`.
const CANDIDATE: &str =
    "d.org_id, d.id, d.event_id, d.event_received_at, d.endpoint_id, d.attempts,
    d.payload_bytes, d.due_at AS was_due_at";

impl Candidate {
    fn read(row: &Row) -> Result<Self> {
        let payload_bytes = row.get("payload_bytes")?;
        Ok(Self { leased: LeasedRow::read(row)?, payload_bytes })
    }

    /// Those of the rows that can be read.
    fn of(rows: &[Row]) -> impl Iterator<Item = Self> {
        rows.iter().filter_map(|row| if_readable(Self::read(row)))
    }
}

/// The oldest ordered delivery of each endpoint, where it is due and none is in flight.
async fn heads(tx: &mut Tx<'_>, request: &LeaseRequest<'_>) -> Result<Vec<Candidate>> {
    let mut found = Vec::new();
    let sql = format!(
        "SELECT {CANDIDATE}, true AS ordered FROM endpoints p, {}
         WHERE p.id = $1 AND {IS_SENT_TO} AND p.ordered
           AND d.lease_token IS NULL AND d.due_at <= $2
           AND NOT EXISTS (SELECT 1 FROM pending_deliveries l INDEXED BY pending_ordered_leases
                           WHERE l.ordered = 1 AND l.lease_token IS NOT NULL
                             AND l.endpoint_id = $1)",
        head(Dialect::Sqlite, "$1", "(SELECT cancel_before FROM endpoints WHERE id = $1)")
    );
    for grant in request.grants(true) {
        let rows = tx.all(sql.clone(), args![grant.endpoint, request.now]).await?;
        found.extend(Candidate::of(&rows));
    }
    Ok(found)
}

/// The endpoints that are granted deliveries in any order, by how they are read.
#[derive(Default)]
struct GrantedEndpoints {
    /// With how many each may get.
    all: BTreeMap<EndpointId, usize>,
    /// Endpoints of which nothing is being cancelled.
    plain: Vec<EndpointId>,
    /// Those of them whose ordered deliveries are read like the others.
    not_ordered: Vec<EndpointId>,
    /// The others, with whether they are ordered.
    cancelling: Vec<(EndpointId, bool, Timestamp)>,
}

async fn granted(tx: &mut Tx<'_>, grants: Vec<LeaseGrant>) -> Result<GrantedEndpoints> {
    let ids: Vec<Uuid> = grants.iter().map(|grant| grant.endpoint.uuid()).collect();
    let sql = format!(
        "SELECT p.id, p.ordered, p.cancel_before
         FROM (SELECT unhex(value) AS id FROM json_each($1)) g
         CROSS JOIN endpoints p ON p.id = g.id
         WHERE {IS_SENT_TO}"
    );
    let mut granted = GrantedEndpoints::default();
    for row in tx.all(sql, args![ids]).await? {
        let read = || {
            Ok((row.get("id")?, row.get("ordered")?, row.get_opt::<Timestamp>("cancel_before")?))
        };
        let Some((id, ordered, cancel_before)) = if_readable(read()) else { continue };
        if let Some(until) = cancel_before {
            granted.cancelling.push((id, ordered, until));
        } else {
            granted.plain.push(id);
            granted.not_ordered.extend((!ordered).then_some(id));
        }
    }
    granted.all = grants.iter().map(|grant| (grant.endpoint, grant.deliveries_max)).collect();
    Ok(granted)
}

/// The deliveries in any order that the grants allow.
async fn unordered(tx: &mut Tx<'_>, request: &LeaseRequest<'_>) -> Result<Vec<Candidate>> {
    let grants: Vec<LeaseGrant> = request.grants(false).collect();
    if grants.is_empty() {
        return Ok(Vec::new());
    }
    let granted = granted(tx, grants).await?;
    let mut found = Vec::new();
    for (endpoints, ordered) in [(&granted.plain, false), (&granted.not_ordered, true)] {
        for (most, ids) in by_limit(endpoints, &granted.all) {
            let sql = format!(
                "SELECT {CANDIDATE}, false AS ordered
                 FROM (SELECT unhex(value) AS endpoint_id FROM json_each($1)) g
                 CROSS JOIN pending_deliveries d
                 WHERE (d.org_id, d.created_at, d.id) IN
                     (SELECT x.org_id, x.created_at, x.id
                      FROM pending_deliveries x INDEXED BY pending_claims
                      WHERE x.lease_token IS NULL AND x.endpoint_id = g.endpoint_id
                        AND x.ordered = $2 AND x.due_at <= $3
                      ORDER BY x.due_at LIMIT $4)"
            );
            let args = args![ids, ordered, request.now, most];
            found.extend(Candidate::of(&tx.all(sql, args).await?));
        }
    }
    for (endpoint, ordered, until) in &granted.cancelling {
        let most = granted.all.get(endpoint).copied().unwrap_or_default();
        let sql = format!(
            "SELECT {CANDIDATE}, false AS ordered
             FROM pending_deliveries d INDEXED BY pending_by_endpoint
             WHERE d.endpoint_id = $1 AND d.created_at > $2 AND d.lease_token IS NULL
               AND d.due_at <= $3 AND d.ordered <= $4
             ORDER BY d.created_at LIMIT $5"
        );
        let args = args![*endpoint, *until, request.now, !*ordered, most];
        found.extend(Candidate::of(&tx.all(sql, args).await?));
    }
    Ok(first_due(found, &granted.all))
}

/// Endpoints by how many deliveries are read of each: a power of two, so that a few statements do for all.
fn by_limit(
    endpoints: &[EndpointId],
    granted: &BTreeMap<EndpointId, usize>,
) -> BTreeMap<usize, Vec<Uuid>> {
    let mut by_limit: BTreeMap<usize, Vec<Uuid>> = BTreeMap::new();
    for endpoint in endpoints {
        let most = granted.get(endpoint).copied().unwrap_or_default();
        by_limit.entry(most.next_power_of_two()).or_default().push(endpoint.uuid());
    }
    by_limit
}

/// Sorts deliveries by their due times and drops those beyond the grants of their endpoints.
fn first_due(mut found: Vec<Candidate>, granted: &BTreeMap<EndpointId, usize>) -> Vec<Candidate> {
    found.sort_by_key(|candidate| (candidate.leased.was_due_at, candidate.leased.id));
    let mut counts: BTreeMap<EndpointId, usize> = BTreeMap::new();
    found.retain(|candidate| {
        let count = counts.entry(candidate.leased.endpoint_id).or_default();
        *count += 1;
        granted.get(&candidate.leased.endpoint_id).is_some_and(|most| *count <= *most)
    });
    found
}

/// The first candidates of each endpoint, as long as their payloads fit.
fn fitting(candidates: Vec<Candidate>, grants: &[LeaseGrant]) -> LeasedRows {
    let mut left: BTreeMap<EndpointId, usize> =
        grants.iter().map(|grant| (grant.endpoint, grant.bytes_max)).collect();
    let mut leased = LeasedRows::default();
    for Candidate { leased: row, payload_bytes } in candidates {
        let endpoint = row.endpoint_id;
        let left = left.entry(endpoint).or_default();
        if !leased.too_large.contains_key(&endpoint) && payload_bytes <= *left {
            *left -= payload_bytes;
            leased.rows.push(row);
        } else {
            leased.too_large.entry(endpoint).or_insert(payload_bytes);
        }
    }
    leased
}

/// Takes the leases, by the keys of the rows.
static LEASES: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "UPDATE pending_deliveries SET due_at = o.column4, lease_token = o.column5
         FROM (VALUES ",
        5,
        ") o
         WHERE pending_deliveries.org_id = o.column1
           AND pending_deliveries.created_at = o.column2
           AND pending_deliveries.id = o.column3",
    )
});

/// Reads the events of a list of ids.
static EVENTS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM (SELECT unhex(value) AS wanted FROM json_each(?)) k
         CROSS JOIN events ON id = k.wanted",
        events::COLUMNS
    )
});

fn push_leases(script: &mut Script, rows: &[LeasedRow], lease: Lease) -> Result<()> {
    script.push_rows(&LEASES, rows, |arguments, row| {
        let id = row.id;
        arguments.add(row.org.uuid())?;
        arguments.add(id.created_at().micros())?;
        arguments.add(id.uuid())?;
        arguments.add(lease.until.micros())?;
        arguments.add(lease.token.uuid())
    })
}
