//! The deltas of stored events, in SQLite.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::Arguments;

use crate::domain::Event;
use crate::store::Result;
use crate::store::engine::{MultiRow, Script, SqliteTx};
use crate::store::rollups::delta;

static DELTAS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::insert("rollup_deltas (org_id, body)", 2, ""));

/// Inserts the deltas of events that were stored.
pub(super) async fn insert_deltas(
    tx: &mut SqliteTx,
    stored: &[Arc<Event>],
    kept: Option<Duration>,
) -> Result<()> {
    if stored.is_empty() {
        return Ok(());
    }
    let mut script = Script::default();
    push_deltas(&mut script, stored, kept)?;
    tx.run(script).await.map(drop)
}

/// The same, later in a script.
pub(super) fn push_deltas(
    script: &mut Script,
    stored: &[Arc<Event>],
    kept: Option<Duration>,
) -> Result<()> {
    let deltas = delta::of_shared(stored, kept)?;
    script.push_rows(&DELTAS, &deltas, |arguments, (org, body)| {
        arguments.add(org.uuid())?;
        arguments.add(body.as_slice())
    })
}
