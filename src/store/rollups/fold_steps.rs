//! Steps of folding, also beside deltas or rows that cannot be read: then each organisation's deltas on their own.

use uuid::Uuid;

use crate::domain::OrgId;
use crate::store::engine::args;
use crate::store::{Result, StoreError, System};

/// Unfolded deltas that are counted.
pub const DELTAS_COUNTED_MAX: u64 = 10_000;
/// Organisations whose deltas are folded one after the other.
const ORGS_PER_STEP: usize = 64;

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

    /// Folds the oldest deltas into the rollups, in one transaction. `None` while another server does so.
    ///
    /// # Errors
    /// When the database cannot be reached, or no deltas can be folded.
    pub async fn fold_deltas(self) -> Result<Option<FoldStep>> {
        match self.fold_of(None).await {
            Err(error) if !error.is_connection() => self.fold_by_org(error).await,
            folded => folded,
        }
    }

    /// Folds deltas of some organisations, from a random one on, each in a transaction of its own.
    async fn fold_by_org(self, error: StoreError) -> Result<Option<FoldStep>> {
        let (mut folded, mut failed) = (FoldStep::default(), Some(error));
        let start = OrgId::from_uuid(Uuid::from_u128(rand::random()));
        for org in self.orgs_with_deltas(start).await? {
            match self.fold_of(Some(org)).await {
                Ok(None) => return Ok(None),
                Ok(Some(step)) => folded.add(step),
                Err(error) if error.is_connection() => return Err(error),
                Err(error) => {
                    tracing::error!(%org, %error, "cannot fold the counts of an organisation");
                    folded.unreadable += 1;
                    failed = Some(error);
                }
            }
        }
        match failed {
            Some(error) if folded.deltas == 0 => Err(error),
            _ => Ok(Some(folded)),
        }
    }

    /// Organisations with deltas: those from `start` on, and then those before.
    async fn orgs_with_deltas(self, start: OrgId) -> Result<Vec<OrgId>> {
        let next = "SELECT org_id FROM rollup_deltas WHERE org_id > $1 ORDER BY org_id LIMIT 1";
        let mut orgs = Vec::new();
        for (from, until) in [(start, None), (OrgId::from_uuid(Uuid::nil()), Some(start))] {
            let mut after = from;
            while orgs.len() < ORGS_PER_STEP {
                let found = self.0.engine.find(next, args![after], |row| row.get("org_id")).await?;
                let Some(org) = found.filter(|org| until.is_none_or(|until| *org <= until)) else {
                    break;
                };
                orgs.push(org);
                after = org;
            }
        }
        Ok(orgs)
    }
}
