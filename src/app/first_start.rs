//! The very first start: an organisation and two keys, so that a newcomer can post at once.

use std::fmt;

use super::admin::AdminError;
use crate::auth::{PresentedKey, issue_key};
use crate::domain::{Actor, Org, OrgId, PageRequest, Role, Timestamp};
use crate::store::{SharedStore, StoreError};

/// What the first start made. Its `Display` is the one time the keys are shown.
#[derive(Debug)]
pub struct FirstStart {
    /// The first organisation.
    pub org: Org,
    /// Its API key.
    pub tenant_key: PresentedKey,
    /// An operator's key.
    pub operator_key: PresentedKey,
    /// Where the server answers, such as `http://127.0.0.1:3000`.
    pub base_url: String,
}

impl FirstStart {
    /// Makes the first organisation and keys in a store that has neither; `None` in any other. Of
    /// servers that start on one store at once, one makes them.
    pub async fn prepare(
        store: &SharedStore,
        now: Timestamp,
        base_url: String,
    ) -> Result<Option<Self>, AdminError> {
        let one = PageRequest { limit: 1, after: None };
        let empty = store.orgs_across_orgs(one).await?.data.is_empty()
            && store.keys_across_orgs(one).await?.data.is_empty();
        if !empty {
            return Ok(None);
        }
        let org = Org::new(OrgId::FIRST, "First organisation", now);
        // Hashing takes long, so it comes first: between the rows there is little time to die in.
        let tenant = issue_key(Role::Tenant(org.id), "first key".to_owned(), now).await?;
        let operator = issue_key(Role::Operator, "first operator key".to_owned(), now).await?;
        match store.insert_org_across_orgs(&org, &Actor::SERVER).await {
            Ok(()) => {}
            // Its id is taken: another server was faster.
            Err(StoreError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        for key in [&tenant.record, &operator.record] {
            // Nobody has set a quota yet.
            let _ = store.insert_key_across_orgs(key, &Actor::SERVER).await?;
        }
        Ok(Some(Self { org, tenant_key: tenant.key, operator_key: operator.key, base_url }))
    }
}

impl fmt::Display for FirstStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { org, tenant_key, operator_key, base_url } = self;
        let (tenant_key, operator_key) = (tenant_key.reveal(), operator_key.reveal());
        write!(
            f,
            "Hookgate's first start. These keys are shown this once; keep them.

  organisation   {id}
  API key        {tenant_key}
  operator key   {operator_key}

Post an event:

  curl -i {base_url}/api/events \\
    -H 'X-API-Key: {tenant_key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{\"type\":\"user.login\",\"payload\":{{\"user\":\"ada\"}}}}'
",
            id = org.id,
        )
    }
}
