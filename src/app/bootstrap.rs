//! Bootstrap: the very first start creates an organisation and two keys, so that a newcomer can post at
//! once.

use std::fmt;

use crate::api::Refusal;
use crate::auth::{PresentedKey, issue_key};
use crate::domain::{Actor, Org, OrgId, PageRequest, Role, Timestamp};
use crate::store::{Store, StoreError};

/// The organisation and keys that the first start created. Its `Display` is the only place that shows
/// the keys.
#[derive(Debug)]
pub struct Bootstrap {
    /// The first organisation.
    pub org: Org,
    /// Its API key.
    pub tenant_key: PresentedKey,
    /// An operator's key.
    pub operator_key: PresentedKey,
    /// Where the server answers, such as `http://127.0.0.1:3000`.
    pub base_url: String,
    /// The server's default rate limit, which applies to the organisation.
    pub events_per_minute: u32,
}

impl Bootstrap {
    /// Creates the first organisation and keys in a store that has neither; `None` in any other. When
    /// several servers start on one store at once, one of them creates them.
    pub async fn prepare(
        store: &Store,
        now: Timestamp,
        base_url: String,
        events_per_minute: u32,
    ) -> Result<Option<Self>, Refusal> {
        let one = PageRequest { limit: 1, after: None };
        let empty = store.system().orgs(one).await?.data.is_empty()
            && store.system().keys(one).await?.data.is_empty();
        if !empty {
            return Ok(None);
        }
        let org = Org::new(OrgId::FIRST, "First organisation", now);
        // Hashing is slow, so it comes first: a crash between the inserts is then unlikely.
        let tenant = issue_key(Role::Tenant(org.id), "first key".to_owned(), now).await?;
        let operator = issue_key(Role::Operator, "first operator key".to_owned(), now).await?;
        match store.system().insert_org(&org, &Actor::SERVER).await {
            Ok(()) => {}
            // The id exists: another server was faster.
            Err(StoreError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        for key in [&tenant.record, &operator.record] {
            // A new organisation has no quota.
            let _ = store.system().insert_key(key, &Actor::SERVER).await?;
        }
        let (tenant_key, operator_key) = (tenant.key, operator.key);
        Ok(Some(Self { org, tenant_key, operator_key, base_url, events_per_minute }))
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { org, tenant_key, operator_key, base_url, events_per_minute } = self;
        let (tenant_key, operator_key) = (tenant_key.reveal(), operator_key.reveal());
        write!(
            f,
            "Hookgate started for the first time. These keys are shown only now; keep them.

  organisation   {id}
  API key        {tenant_key}
  operator key   {operator_key}

Post an event:

  curl -i {base_url}/api/events \\
    -H 'X-API-Key: {tenant_key}' \\
    -H 'Content-Type: application/json' \\
    -d '{{\"type\":\"user.login\",\"payload\":{{\"user\":\"ada\"}}}}'

The organisation may post {events_per_minute} events per minute; above that the answer is 429. Whoever operates
this server can raise the limit:

  hookgate org update {id} --rate-limit-per-minute 60000
",
            id = org.id,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn banner_names_the_rate_limit_and_the_command_that_raises_it() {
        let now = Timestamp::from_micros(1);
        let org = Org::new(OrgId::FIRST, "First organisation", now);
        let key = async || issue_key(Role::Operator, "key".to_owned(), now).await.unwrap().key;
        let base_url = "http://127.0.0.1:3000".to_owned();
        let (tenant_key, operator_key) = (key().await, key().await);
        let start = Bootstrap { org, tenant_key, operator_key, base_url, events_per_minute: 1234 };
        let banner = start.to_string();
        assert!(banner.contains("1234 events per minute"), "{banner}");
        let command = format!("hookgate org update {} --rate-limit-per-minute", OrgId::FIRST);
        assert!(banner.contains(&command), "{banner}");
    }
}
