//! What consumers settle, in the counts of deliveries and in the log of changes.

use std::collections::BTreeMap;

use super::SettledRow;
use crate::domain::{OrgId, Timestamp};
use crate::store::engine::Tx;
use crate::store::rollups::delta::{Ended, EndedDelta};
use crate::store::rollups::{LabelsByEvent, labels_statement, read_labels_row};
use crate::store::{Result, Store, changes};

/// Counts and logs what was settled, in the transaction that did it. One statement reads the labels of all its events.
pub(super) async fn count(
    store: &Store,
    tx: &mut Tx<'_>,
    settled: &[SettledRow],
    now: Timestamp,
) -> Result<()> {
    let mut labels = LabelsByEvent::new();
    let events = settled.iter().map(|row| row.event);
    if let Some((sql, args)) = labels_statement(tx.dialect(), events) {
        labels.extend(tx.list(sql, args, read_labels_row).await?);
    }
    let mut deltas = BTreeMap::<OrgId, EndedDelta>::new();
    for row in settled {
        let delta = deltas.entry(row.org).or_default();
        delta.push(row.inbox, (row.id, Ended::Delivered), labels.get(&row.event), now)?;
    }
    for (org, delta) in &deltas {
        delta.append(tx, *org).await?;
    }
    let ended = settled.iter().map(|row| (row.org, row.id, false));
    changes::log(tx, store.logged_ends(ended), store.due(now)).await
}
