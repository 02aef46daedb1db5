//! What consumers settle, in the counts of deliveries.

use std::collections::BTreeMap;

use super::SettledRow;
use crate::domain::{OrgId, Timestamp};
use crate::store::Result;
use crate::store::engine::Tx;
use crate::store::rollups::delta::{self, Ended};

/// Counts what was settled, in the transaction that did it.
pub(super) async fn count(tx: &mut Tx<'_>, settled: &[SettledRow], now: Timestamp) -> Result<()> {
    let mut bodies = BTreeMap::<OrgId, Vec<u8>>::new();
    for row in settled {
        let body = bodies.entry(row.org).or_default();
        *body =
            delta::push_ended(std::mem::take(body), row.inbox, (row.id, Ended::Delivered), now)?;
    }
    for (org, body) in &bodies {
        delta::append(tx, *org, body).await?;
    }
    Ok(())
}
