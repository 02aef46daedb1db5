//! What has changed of an organisation's endpoints since a version: read, and applied to what is in memory, at the
//! cost of what has changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::OrgEndpoints;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::store::engine::args;
use crate::store::{Result, System, endpoints};

/// Changed endpoints that are read at most. Beyond it all are read, which costs less than so many one by one.
const CHANGED_MAX: usize = 256;

/// Every change of an organisation's endpoints after one version.
#[derive(Clone, Debug)]
pub struct EndpointsSince {
    /// The version that they were at.
    pub since: u64,
    /// The version that they are at now.
    pub version: u64,
    /// The endpoints that changed, each once.
    pub changed: Vec<ChangedEndpoint>,
}

/// An endpoint as it is now.
#[derive(Clone, Debug)]
pub struct ChangedEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// `None` when no events are planned for it any more.
    pub endpoint: Option<Arc<Endpoint>>,
}

impl System<'_> {
    /// What has changed of an organisation's endpoints since a version, all read at one moment. `None` when it is not
    /// known whether that would be everything, and all of them are to be read: there is no such organisation, or very
    /// much has changed, or a row cannot be read, or some version left no row behind, as when an endpoint has
    /// changed twice.
    pub async fn endpoints_since(self, org: OrgId, since: u64) -> Result<Option<EndpointsSince>> {
        let sql = format!(
            "SELECT o.endpoints_version,
                    p.removed_at IS NULL AND (p.disabled_reason IS NULL OR p.suspended) AS planned,
                    {}
             FROM orgs o LEFT JOIN endpoints p ON p.org_id = o.id AND p.version > $2
             WHERE o.id = $1 LIMIT $3",
            endpoints::COLUMNS.of("p"),
        );
        let rows = self.0.engine.all(sql, args![org, since, CHANGED_MAX + 1]).await?;
        let Some(first) = rows.first().filter(|_| rows.len() <= CHANGED_MAX) else {
            return Ok(None);
        };
        let version: u64 = first.get("endpoints_version")?;
        let (mut changed, mut versions) = (Vec::with_capacity(rows.len()), BTreeSet::new());
        for row in &rows {
            let Some(id) = row.get_opt("id")? else { continue };
            versions.insert(row.get::<u64>("version")?);
            let endpoint = if row.get("planned")? {
                // What cannot be read is told apart when all are read.
                let Ok(endpoint) = endpoints::read(row, &self.0.keyring) else { return Ok(None) };
                Some(Arc::new(endpoint))
            } else {
                None
            };
            changed.push(ChangedEndpoint { id, endpoint });
        }
        let is_whole = version.checked_sub(since) == Some(versions.len() as u64);
        Ok(is_whole.then_some(EndpointsSince { since, version, changed }))
    }
}

impl OrgEndpoints {
    /// These endpoints with what has changed since. `None` when all are to be read: they are older than that, or one
    /// of them could not be read.
    #[must_use]
    pub fn with(&self, changes: &EndpointsSince) -> Option<Self> {
        let EndpointsSince { since, version, changed } = changes;
        if self.version < *since || !self.unreadable.is_empty() {
            return None;
        }
        let mut endpoints = self.endpoints.clone();
        for ChangedEndpoint { id, endpoint } in changed {
            match (endpoints.binary_search_by_key(id, |known| known.id), endpoint) {
                (Ok(at), Some(endpoint)) => {
                    endpoints.splice(at..=at, [Arc::clone(endpoint)]);
                }
                (Ok(at), None) => drop(endpoints.remove(at)),
                (Err(at), Some(endpoint)) => endpoints.insert(at, Arc::clone(endpoint)),
                (Err(_), None) => {}
            }
        }
        Some(Self { version: *version, endpoints, ..Self::default() })
    }

    /// One of them.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Arc<Endpoint>> {
        let at = self.endpoints.binary_search_by_key(&id, |known| known.id).ok()?;
        self.endpoints.get(at)
    }
}
