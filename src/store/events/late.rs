//! Events that are stored long after they were accepted, as after an outage or by `journal replay`: the removal of
//! payloads may have passed them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::plan;
use crate::domain::{Event, OrgId, Timestamp};
use crate::store::Result;
use crate::store::engine::{Row, Tx, Value, args};
use crate::store::page::START_OF_TIME;

/// An event that was accepted so long ago may be behind a removal of payloads: half of the shortest time that payloads
/// are kept, since the clocks of servers differ.
const LATE_AFTER: Duration = Duration::from_hours(12);

/// Whether an event is late.
pub(super) fn is_late(event: &Event, now: Timestamp) -> bool {
    now.since(event.received_at) >= LATE_AFTER
}

/// Notes the late events of a batch that a removal of payloads has passed: its next round looks at what is noted. Called
/// in the transaction that stores them. The lock that it takes is what a step of a removal has alone, so that a step
/// either sees the events or has moved its mark before it is read here.
pub(super) async fn note(tx: &mut Tx<'_>, events: &[Arc<Event>], now: Timestamp) -> Result<()> {
    let late: Vec<Arc<Event>> =
        events.iter().filter(|event| is_late(event, now)).cloned().collect();
    if late.is_empty() {
        return Ok(());
    }
    let orgs: Vec<Uuid> = plan::orgs_of(&late).into_iter().map(OrgId::uuid).collect();
    let dialect = tx.dialect();
    // There is a mark to lock before the first removal, too.
    let marks = format!(
        "INSERT INTO payload_removals (org_id, until)
         SELECT id, $2 FROM orgs WHERE {} AND deleting_since IS NULL ORDER BY id
         ON CONFLICT (org_id) DO NOTHING",
        dialect.any("id", "$1")
    );
    tx.execute(marks, args![orgs.clone(), START_OF_TIME]).await?;
    let lock = dialect.lock(" FOR SHARE");
    let sql = format!(
        "SELECT org_id, until FROM payload_removals WHERE {} ORDER BY org_id{lock}",
        dialect.any("org_id", "$1")
    );
    let mark = |row: &Row| Ok((row.get("org_id")?, row.get("until")?));
    let marks = tx.list(sql, args![orgs], mark).await?;
    let marks: HashMap<OrgId, Timestamp> = marks.into_iter().collect();
    let is_behind = |event: &&Arc<Event>| {
        marks.get(&event.org_id).is_some_and(|until| event.received_at <= *until)
    };
    let rows: Vec<Vec<Value<'_>>> = late
        .iter()
        .filter(is_behind)
        .map(|event| args![event.org_id, event.received_at, event.id])
        .collect();
    let insert = "INSERT INTO payloads_in_use (org_id, received_at, event_id)
                  SELECT column1, column2, column3 FROM ";
    tx.execute_values(insert, rows, " WHERE true ON CONFLICT DO NOTHING").await?;
    Ok(())
}
