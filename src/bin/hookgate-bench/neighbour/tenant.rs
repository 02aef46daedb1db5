//! An organisation of a neighbour.

use hookgate::cli::CliError;
use serde_json::{Value, json};

use crate::client::ApiClient;
use crate::server::EVENTS_PER_MINUTE;

/// Maximum events per batch.
const BATCH_EVENTS_MAX: usize = 1_000;

/// An organisation that an operator has created for a neighbour.
pub(super) struct Tenant {
    operator: ApiClient,
    /// The path of the organisation for the operator.
    path: String,
    pub(super) key: String,
    pub(super) client: ApiClient,
}

impl Tenant {
    /// Creates an organisation with no limit on events, and room for `endpoints` endpoints.
    pub(super) async fn create(operator: &ApiClient, endpoints: u32) -> Result<Self, CliError> {
        Self::create_limited(operator, endpoints, EVENTS_PER_MINUTE, EVENTS_PER_MINUTE).await
    }

    /// Creates an organisation with these limits.
    pub(super) async fn create_limited(
        operator: &ApiClient,
        endpoints: u32,
        events_per_minute: u32,
        burst: u32,
    ) -> Result<Self, CliError> {
        let limits = json!({
            "name": "bench neighbour", "endpoints_max": endpoints,
            "rate_limit_per_minute": events_per_minute, "burst": burst,
        });
        Self::create_org(operator, limits).await
    }

    /// Creates an organisation that may have this many keys.
    pub(super) async fn create_with_keys(
        operator: &ApiClient,
        keys: u32,
    ) -> Result<Self, CliError> {
        Self::create_org(operator, json!({ "name": "bench neighbour", "keys_max": keys })).await
    }

    async fn create_org(operator: &ApiClient, org: Value) -> Result<Self, CliError> {
        let org = operator.call("POST", "/api/admin/orgs", &org.to_string()).await?;
        let path = format!("/api/admin/orgs/{}", text(&org, "id")?);
        let key = operator.call("POST", &format!("{path}/keys"), r#"{"name":"bench"}"#).await?;
        let key = text(&key, "key")?.to_owned();
        Ok(Self { operator: operator.clone(), path, client: operator.with_key(&key), key })
    }

    /// Posts events of these types, in batches.
    pub(super) async fn post_events(&self, event_types: &[String]) -> Result<(), CliError> {
        for batch in event_types.chunks(BATCH_EVENTS_MAX) {
            let event = |event_type: &String| format!(r#"{{"type":"{event_type}","payload":0}}"#);
            let body = batch.iter().map(event).collect::<Vec<_>>().join(",");
            self.client.call("POST", "/api/events/batch", &format!("[{body}]")).await?;
        }
        Ok(())
    }

    /// Lets its deliveries wait.
    pub(super) async fn suspend(&self) -> Result<(), CliError> {
        self.operator.call("POST", &format!("{}/suspend", self.path), "").await?;
        Ok(())
    }
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str, CliError> {
    Ok(value[field].as_str().ok_or_else(|| format!("the server's answer has no {field}"))?)
}
