//! Steps of folding, also beside deltas or rows that cannot be read: then each organisation's deltas on their own.
//!
//! Deltas that cannot be folded stay the oldest. So organisations at fault are left out for a while, during which no step
//! begins with the oldest deltas of all; and each step begins behind the organisation that the one before ended with.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::domain::OrgId;
use crate::runtime::Stopwatch;
use crate::store::engine::args;
use crate::store::{Result, StoreError, System};

/// Unfolded deltas that are counted.
pub const DELTAS_COUNTED_MAX: u64 = 10_000;
/// Organisations whose deltas are folded one after the other.
const ORGS_PER_STEP: usize = 64;
/// How long an organisation is left out whose deltas cannot be folded: each try costs a transaction and a line in the log.
const LEFT_OUT_FOR: Duration = Duration::from_secs(10);

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FoldStep {
    /// Deltas that were folded.
    pub deltas: usize,
    /// Events and outcomes in them.
    pub records: usize,
    /// Whether more are known to wait.
    pub more: bool,
    /// Organisations whose deltas cannot be folded, of those that were looked at.
    pub unreadable: usize,
}

/// Where folding goes on while some deltas cannot be folded. Who folds keeps it from step to step.
#[derive(Debug)]
pub struct FoldCursor {
    /// The organisation that was looked at last; nil before the first one.
    after: OrgId,
    /// Whether an organisation before it is known to have more.
    more: bool,
    /// Organisations whose deltas could not be folded, and since when.
    left_out: BTreeMap<OrgId, Stopwatch>,
}

impl Default for FoldCursor {
    fn default() -> Self {
        Self { after: BEFORE_ALL, more: false, left_out: BTreeMap::new() }
    }
}

/// The organisation that all are behind.
const BEFORE_ALL: OrgId = OrgId::from_uuid(Uuid::nil());

impl FoldStep {
    fn add(&mut self, step: Self) {
        self.deltas += step.deltas;
        self.records += step.records;
        self.more |= step.more;
    }
}

impl System<'_> {
    /// Deltas that are not folded yet; beyond [`DELTAS_COUNTED_MAX`] they are not counted.
    pub async fn unfolded_deltas(self) -> Result<u64> {
        let sql = "SELECT count(*) AS count FROM (SELECT 1 FROM rollup_deltas LIMIT $1) d";
        self.0.engine.one(sql, args![DELTAS_COUNTED_MAX]).await?.get("count")
    }

    /// Folds the oldest deltas into the rollups, as the first step of a server does.
    ///
    /// # Errors
    /// As of [`Self::fold_next`].
    pub async fn fold_deltas(self) -> Result<Option<FoldStep>> {
        self.fold_next(&mut FoldCursor::default()).await
    }

    /// Folds the oldest deltas into the rollups, in one transaction; while some cannot be folded, those of some
    /// organisations, each in one of its own. `None` while another server does so.
    ///
    /// # Errors
    /// When the database cannot be reached, or none of the deltas that were looked at can be folded.
    pub async fn fold_next(self, cursor: &mut FoldCursor) -> Result<Option<FoldStep>> {
        cursor.left_out.retain(|_, since| since.elapsed() < LEFT_OUT_FOR);
        if !cursor.left_out.is_empty() {
            return self.fold_by_org(cursor, None).await;
        }
        match self.fold_of(None).await {
            Err(error) if !error.is_connection() => self.fold_by_org(cursor, Some(error)).await,
            folded => folded,
        }
    }

    /// Folds deltas of the next organisations, each in a transaction of its own.
    async fn fold_by_org(
        self,
        cursor: &mut FoldCursor,
        mut failed: Option<StoreError>,
    ) -> Result<Option<FoldStep>> {
        let mut folded = FoldStep::default();
        let orgs = self.orgs_with_deltas(cursor).await?;
        for org in &orgs {
            match self.fold_of(Some(*org)).await {
                Ok(None) => return Ok(None),
                Ok(Some(step)) => folded.add(step),
                Err(error) if error.is_connection() => return Err(error),
                Err(error) => {
                    tracing::error!(%org, %error, "cannot fold the counts of an organisation");
                    folded.unreadable += 1;
                    cursor.left_out.insert(*org, Stopwatch::start());
                    failed = Some(error);
                }
            }
            cursor.after = *org;
            cursor.more |= folded.more;
        }
        folded.more = orgs.len() == ORGS_PER_STEP;
        if !folded.more {
            cursor.after = BEFORE_ALL;
            folded.more = std::mem::take(&mut cursor.more);
        }
        match failed {
            Some(error) if folded.deltas == 0 => Err(error),
            _ => Ok(Some(folded)),
        }
    }

    /// The next organisations with deltas, without those that are left out.
    async fn orgs_with_deltas(self, cursor: &FoldCursor) -> Result<Vec<OrgId>> {
        let next = "SELECT org_id FROM rollup_deltas WHERE org_id > $1 ORDER BY org_id LIMIT 1";
        let (mut orgs, mut after) = (Vec::new(), cursor.after);
        while orgs.len() < ORGS_PER_STEP
            && let Some(org) =
                self.0.engine.find(next, args![after], |row| row.get("org_id")).await?
        {
            after = org;
            if !cursor.left_out.contains_key(&org) {
                orgs.push(org);
            }
        }
        Ok(orgs)
    }
}
