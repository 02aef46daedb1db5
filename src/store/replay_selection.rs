//! The dead letters that a replay is for: how many, and the next ones.

use super::engine::{Tx, args};
use super::filter::Filter;
use super::replay_chunk::{Candidate, REPLAYS_PER_STEP};
use super::{Result, dead_letters};
use crate::domain::{Cursor, DeadLetterFilter, DeadReason, ErrorClass, OrgId, ReplayAction};

/// Dead letters that are counted for the total of a replay at most: beyond, counting costs more than the
/// number is worth.
const COUNTED_MAX: i64 = 100_000;

/// How many dead letters a replay is for; `None` when they are too many to count, or when a filter by
/// type would have to read every event.
pub(super) async fn count(
    tx: &mut Tx<'_>,
    org: OrgId,
    action: ReplayAction,
    filter: &DeadLetterFilter,
) -> Result<Option<u64>> {
    if filter.event_type.is_some() {
        return Ok(None);
    }
    let mut conditions = dead_letters::of_org(tx.dialect(), org, filter, 1);
    conditions.and_some("created_at >= ?", filter.since);
    conditions.and_some("created_at < ?", filter.until);
    conditions.and_some("reason = ?", filter.reason.map(DeadReason::as_str));
    conditions.and_some("error_class = ?", filter.error_class.map(ErrorClass::as_str));
    conditions.and_some("status_code = ?", filter.status_code.map(u32::from));
    let is_meant = is_meant(action, filter);
    let sql = format!(
        "SELECT count(*) AS count FROM (
             SELECT 1 FROM dead_letters WHERE {conditions} AND {is_meant} LIMIT $1
         ) l"
    );
    let mut args = args![COUNTED_MAX + 1];
    args.extend(conditions.into_args());
    let counted: u64 = tx.one(sql, args).await?.get("count")?;
    Ok((counted <= COUNTED_MAX.unsigned_abs()).then_some(counted))
}

/// The condition that a dead letter is meant at all. None is replayed twice.
const fn is_meant(action: ReplayAction, filter: &DeadLetterFilter) -> &'static str {
    match (action, filter.replayed) {
        (ReplayAction::Replay, Some(true)) => "false",
        (ReplayAction::Replay, _) | (ReplayAction::Discard, Some(false)) => "replayed_at IS NULL",
        (ReplayAction::Discard, Some(true)) => "replayed_at IS NOT NULL",
        (ReplayAction::Discard, None) => "true",
    }
}

/// The next dead letters of a replay, whether they pass its filter or not: reading a bounded number
/// bounds the step.
pub(super) async fn candidates_after(
    tx: &mut Tx<'_>,
    org: OrgId,
    action: ReplayAction,
    filter: &DeadLetterFilter,
    cursor: Cursor,
) -> Result<Vec<Candidate>> {
    let mut source = dead_letters::of_org(tx.dialect(), org, filter, 3);
    source.and_some("created_at < ?", filter.until);
    let mut wanted = Filter::after(source.parameters());
    wanted.and_some("l.reason = ?", filter.reason.map(DeadReason::as_str));
    wanted.and_some("l.error_class = ?", filter.error_class.map(ErrorClass::as_str));
    wanted.and_some("l.status_code = ?", filter.status_code.map(u32::from));
    // A quarantined event has no type here.
    wanted.and_type("coalesce({}, false)", "l.event_type", filter.event_type.as_ref());
    let is_meant = is_meant(action, filter);
    let sql = format!(
        "SELECT l.id, l.created_at, l.delivery_id IS NOT NULL AS is_delivery,
                {is_meant} AND coalesce({wanted}, false) AS wanted
         FROM (SELECT id, org_id, created_at, delivery_id, event_type, reason, error_class,
                      status_code, replayed_at
               FROM dead_letters
               WHERE {source} AND (created_at, id) > ($1, $2)
               ORDER BY created_at, id LIMIT $3) l
         ORDER BY l.created_at, l.id"
    );
    let mut args = args![cursor.at, cursor.id, REPLAYS_PER_STEP];
    args.extend(source.into_args());
    args.extend(wanted.into_args());
    tx.list(sql, args, Candidate::read).await
}
