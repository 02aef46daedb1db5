//! The neighbour `fanout`: a tenant with many endpoints for the same events.

use axum::Router;
use axum::http::StatusCode;
use hookgate::cli::CliError;

use crate::client::ApiClient;

use super::tenant::Tenant;
use super::{NeighbourArgs, Running};

/// Events, posted as one batch.
const EVENTS: usize = 500;

/// Creates the endpoints and posts the batch.
pub(super) async fn start(
    running: &mut Running,
    args: &NeighbourArgs,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let receiver = Router::new().fallback(async || StatusCode::NO_CONTENT);
    let url = running.receivers.serve(receiver).await?;
    let tenant = Tenant::create(operator, args.fanout_endpoints).await?;
    for number in 0..args.fanout_endpoints {
        tenant.client.create_endpoint(&format!("{url}{number}"), &[]).await?;
    }
    tenant.post_events(&vec!["bench.fanout".to_owned(); EVENTS]).await?;
    running.tenants.push(tenant);
    Ok(())
}
