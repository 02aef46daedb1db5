//! The neighbours `slow`, `dripping`, `hanging` and `failing`: tenants whose receivers keep an attempt for long, or fail.
//! Those of the first two answer 200, so that no breaker opens; those of the last make breakers open and close together.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::stream;
use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;

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

/// How long a failing receiver answers 503, and then 200: a second longer than a breaker is open at first.
const FAILS_FOR: Duration = Duration::from_secs(6);

/// Pause between two bytes of a body that does not end.
const DRIP_PAUSE: Duration = Duration::from_millis(100);

/// A receiver that answers 200 after seconds.
pub(super) fn late() -> Router {
    Router::new().fallback(answer_late)
}

/// A receiver that answers 200 at once, with a body that does not end.
pub(super) fn dripping() -> Router {
    Router::new().fallback(async || {
        Body::from_stream(stream::unfold((), |()| async {
            tokio::time::sleep(DRIP_PAUSE).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b".")), ()))
        }))
    })
}

/// A receiver that takes requests and does not answer.
pub(super) fn hanging() -> Router {
    Router::new().fallback(std::future::pending::<StatusCode>)
}

/// A receiver that answers 503 and 200 in turns of seconds, to everybody at the same time.
pub(super) fn failing() -> Router {
    let since = Stopwatch::start();
    Router::new().fallback(async move || {
        if (since.elapsed().as_secs() / FAILS_FOR.as_secs()).is_multiple_of(2) {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        }
    })
}

/// Starts the receiver and posts the events.
pub(super) async fn start(
    running: &mut Running,
    args: &NeighbourArgs,
    operator: &ApiClient,
    receiver: Router,
) -> Result<(), CliError> {
    let (organisations, endpoints) =
        args.slow_endpoints.map_or((ORGANISATIONS, 1), |endpoints| (1, endpoints));
    let events = args.pending.unwrap_or(PENDING) / organisations;
    let url = running.receivers.serve(receiver).await?;
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
