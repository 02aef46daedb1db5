//! The neighbour `dns`: a tenant with many endpoints at names whose name server never answers.

use hookgate::cli::CliError;
use serde_json::json;

use crate::client::ApiClient;
use crate::name_server::SILENT;

use super::tenant::Tenant;
use super::{NeighbourArgs, Running};

/// Events, each for every endpoint.
const EVENTS: usize = 4;
/// Waits between the attempts of a delivery: short ones, so that look-ups go on for the whole run.
const RETRY_SCHEDULE: [&str; 32] = ["1s"; 32];

/// Creates the endpoints and posts the events.
pub(super) async fn start(
    running: &mut Running,
    args: &NeighbourArgs,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let tenant = Tenant::create(operator, args.silent_names).await?;
    for number in 0..args.silent_names {
        let url = format!("http://n{number}.{SILENT}/");
        let endpoint = json!({ "url": url, "retry_schedule": RETRY_SCHEDULE });
        tenant.client.call("POST", "/api/endpoints", &endpoint.to_string()).await?;
    }
    tenant.post_events(&vec!["bench.dns".to_owned(); EVENTS]).await?;
    running.tenants.push(tenant);
    Ok(())
}
