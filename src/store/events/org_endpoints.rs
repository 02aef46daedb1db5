//! The endpoints that an organisation's events are planned for, read at one version of theirs.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::endpoints_by_type::EndpointsByType;
use super::subscription::Subscription;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::store::crypto::Keyring;
use crate::store::engine::{Dialect, Row, Tx, args};
use crate::store::{Result, System, endpoints};
use crate::telemetry::OrgLines;

/// Endpoints whose rows cannot be read.
static UNREADABLE: OrgLines = OrgLines::new();

/// The endpoints of an organisation that its events are planned for: enabled ones, and those that only a suspension
/// disables.
#[derive(Debug, Default)]
pub struct OrgEndpoints {
    /// How many changes of its endpoints these rows include.
    pub version: u64,
    /// The endpoints, in the order of their ids.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// Endpoints whose rows cannot be read. They are treated as disabled.
    pub unreadable: Vec<UnreadableEndpoint>,
    /// The endpoints by the types that they name.
    pub by_type: EndpointsByType,
}

/// An endpoint whose row cannot be read.
#[derive(Debug)]
pub struct UnreadableEndpoint {
    /// Its id.
    pub id: EndpointId,
    /// What cannot be read.
    pub error: String,
    /// The events it subscribes to, where those columns can be read: their deliveries wait in the store.
    pub(super) subscription: Option<Subscription>,
}

impl System<'_> {
    /// The endpoints of some organisations, all read at one moment. An organisation that does not exist has none.
    pub async fn org_endpoints(self, orgs: &[OrgId]) -> Result<HashMap<OrgId, Arc<OrgEndpoints>>> {
        let engine = &self.0.engine;
        let rows = engine.all(select(engine.dialect()), args![ids(orgs)]).await?;
        read(&rows, orgs, &self.0.keyring)
    }
}

/// The endpoints of some organisations within a transaction.
pub(super) async fn load(
    tx: &mut Tx<'_>,
    keyring: &Keyring,
    orgs: &[OrgId],
) -> Result<HashMap<OrgId, Arc<OrgEndpoints>>> {
    if orgs.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = tx.all(select(tx.dialect()), args![ids(orgs)]).await?;
    read(&rows, orgs, keyring)
}

/// Organisations with their versions, joined to their endpoints: one statement, so that both are of one moment.
fn select(dialect: Dialect) -> String {
    format!(
        "SELECT o.id AS org, o.endpoints_version, {}
         FROM orgs o LEFT JOIN endpoints p
             ON p.org_id = o.id AND p.removed_at IS NULL
                AND (p.disabled_reason IS NULL OR p.suspended)
         WHERE {}",
        endpoints::COLUMNS.of("p"),
        dialect.any("o.id", "$1")
    )
}

fn ids(orgs: &[OrgId]) -> Vec<Uuid> {
    orgs.iter().copied().map(OrgId::uuid).collect()
}

fn read(
    rows: &[Row],
    orgs: &[OrgId],
    keyring: &Keyring,
) -> Result<HashMap<OrgId, Arc<OrgEndpoints>>> {
    let mut found: HashMap<OrgId, OrgEndpoints> =
        orgs.iter().map(|org| (*org, OrgEndpoints::default())).collect();
    for row in rows {
        let org: OrgId = row.get("org")?;
        let of_org = found.entry(org).or_default();
        of_org.version = row.get("endpoints_version")?;
        let Some(id) = row.get_opt("id")? else { continue };
        match endpoints::read(row, keyring) {
            Ok(endpoint) => of_org.endpoints.push(Arc::new(endpoint)),
            Err(error) => {
                if let Some(unlogged) = UNREADABLE.due(org) {
                    tracing::warn!(%org, endpoint = %id, %error, unlogged, "cannot read an endpoint; treating it as disabled");
                }
                let (error, subscription) = (error.to_string(), Subscription::read(row).ok());
                of_org.unreadable.push(UnreadableEndpoint { id, error, subscription });
            }
        }
    }
    let sorted = |(org, mut of_org): (OrgId, OrgEndpoints)| {
        of_org.endpoints.sort_unstable_by_key(|endpoint| endpoint.id);
        (org, Arc::new(of_org))
    };
    Ok(found.into_iter().map(sorted).collect())
}

impl OrgEndpoints {
    /// Whether one of them is ordered, so that the organisation's events are to be stored in the order they were
    /// accepted.
    pub fn has_ordered(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.policy.ordered)
    }

    /// The endpoints that may want events of a type.
    pub(super) fn candidates(&self, event_type: &str) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.by_type.candidates(&self.endpoints, event_type)
    }

    /// How many deliveries an event of this type and account makes at most.
    pub fn matching(&self, event_type: &str, account: Option<&str>) -> usize {
        let matches = |endpoint: &&Arc<Endpoint>| {
            endpoint.event_types.matches(event_type)
                && endpoint.account_id.as_deref().is_none_or(|own| account == Some(own))
        };
        self.candidates(event_type).filter(matches).count()
    }
}
