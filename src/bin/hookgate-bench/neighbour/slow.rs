//! The neighbour `slow`: tenants whose receivers take seconds and answer 200, so that no breaker opens.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hookgate::cli::CliError;

use crate::arrivals::serve;
use crate::client::ApiClient;

use super::tenant::Tenant;
use super::{NeighbourArgs, Running};

/// Organisations with one endpoint each, unless `--slow-endpoints` is set.
const ORGANISATIONS: u32 = 24;
/// Deliveries that wait, over all endpoints: 1,500 for each of 24.
const PENDING: u32 = 36_000;
/// The shortest delay of an answer, and how much longer one may take: always less than the default
/// `DELIVERY_TIMEOUT`.
const DELAY_MIN: Duration = Duration::from_secs(5);
const DELAY_SPREAD: Duration = Duration::from_secs(8);

/// Starts the receivers and posts the events.
pub(super) async fn start(
    running: &mut Running,
    args: &NeighbourArgs,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let (organisations, endpoints) =
        args.slow_endpoints.map_or((ORGANISATIONS, 1), |endpoints| (1, endpoints));
    let events = args.pending.unwrap_or(PENDING) / organisations;
    let url = serve(&mut running.receivers, Router::new().fallback(answer_late)).await?;
    for _ in 0..organisations {
        let tenant = Tenant::create(operator, endpoints).await?;
        for number in 0..endpoints {
            tenant.client.create_endpoint(&url, &[&event_type(number)]).await?;
        }
        // Each endpoint gets its share, and one event at least.
        let event_types = (0..events.max(endpoints)).map(|number| event_type(number % endpoints));
        tenant.post_events(&event_types.collect::<Vec<_>>()).await?;
        running.tenants.push(tenant);
    }
    Ok(())
}

fn event_type(endpoint: u32) -> String {
    format!("bench.slow-{endpoint}")
}

async fn answer_late() -> StatusCode {
    let fraction = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    tokio::time::sleep(DELAY_MIN + DELAY_SPREAD.mul_f64(fraction)).await;
    StatusCode::OK
}
