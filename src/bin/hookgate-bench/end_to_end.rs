//! The scenario `end-to-end`: from `POST` to the arrival of the webhook at a receiver in this process.

use std::sync::Arc;
use std::time::Duration;

use hookgate::cli::CliError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{RunArgs, Scenario};
use crate::arrivals::{Arrivals, Latencies, receive};
use crate::client::ApiClient;
use crate::event_source::EventSource;
use crate::load::Load;
use crate::measure::unless_stopped;
use crate::name_server::HEALTHY;
use crate::neighbour::Neighbour;
use crate::report::Measured;
use crate::server::Server;
use crate::target::Target;

/// Receivers; each has its own endpoint and event type.
pub(crate) const RECEIVERS: u32 = 4;
/// Concurrency of the endpoint of a receiver with a delay: its part of the default `DELIVERY_CONCURRENCY`. With
/// the default `ENDPOINT_CONCURRENCY` the delay alone would bound the rate.
const CONCURRENCY_WITH_DELAY: u32 = 512 / RECEIVERS;
/// How long to wait for webhooks after the last event was accepted.
const LAST_WEBHOOK: Duration = Duration::from_mins(2);

/// Posts events and waits for their webhooks. The rate is the webhooks', over the time from the first
/// post to the last arrival.
pub(crate) async fn run(
    args: &RunArgs,
    server: &Server,
    load: Load,
    stop: &CancellationToken,
) -> Result<Latencies, CliError> {
    // Where names matter, every webhook needs a connection of its own, and so an address.
    let by_name = args.beside == Some(Neighbour::Dns);
    let arrivals = Arc::new(Arrivals::new(args.receiver_delay, by_name)?);
    let target = Target::new(Scenario::EndToEnd, args, server);
    let tenant = ApiClient::new(server.authority(), server.api_key());
    let mut receivers = JoinSet::new();
    let mut endpoints = Vec::new();
    for number in 0..RECEIVERS {
        let mut url = receive(&mut receivers, Arc::clone(&arrivals)).await?;
        if by_name {
            url = url.replace("127.0.0.1", &format!("receiver-{number}.{HEALTHY}"));
        }
        let event_type = format!("bench.receiver-{number}");
        let endpoint = tenant.create_endpoint(&url, &[&event_type]).await?;
        endpoints.push(endpoint.clone());
        if !args.receiver_delay.is_zero() {
            let change = format!(r#"{{"max_concurrency":{CONCURRENCY_WITH_DELAY}}}"#);
            tenant.call("PATCH", &endpoint, &change).await?;
        }
    }

    let posted_and_arrived = async {
        let sent = post_all(args, &target, load, &arrivals).await?;
        // Webhooks that are missing then are counted as such.
        let _ = tokio::time::timeout(LAST_WEBHOOK, arrivals.all_arrived()).await;
        Ok(sent)
    };
    let outcome = unless_stopped(stop, posted_and_arrived).await;
    // After a failure too: the server may be in use by others.
    for endpoint in endpoints {
        tenant.call("DELETE", &endpoint, "").await?;
    }

    let sent = outcome?;
    let (mut latencies, last_arrival) = arrivals.finish()?;
    latencies.end_to_end.add(sent)?;
    latencies.end_to_end.seconds = last_arrival.as_secs_f64();
    Ok(latencies)
}

/// Posts events of the receivers' types, round-robin. Returns only errors: an accepted event counts
/// when its webhook arrives.
async fn post_all(
    args: &RunArgs,
    target: &Target,
    load: Load,
    arrivals: &Arc<Arrivals>,
) -> Result<Measured, CliError> {
    let events = Arc::new(EventSource::new(args));
    load.drive(&target.authority, |mut connection, mut pacer| {
        let (target, arrivals) = (target.clone(), Arc::clone(arrivals));
        let events = Arc::clone(&events);
        async move {
            let mut receiver = 0;
            while let Some(due) = pacer.next().await {
                // The pacer's clock started later, by the time it took to connect.
                let offset = arrivals.watch.elapsed().saturating_sub(pacer.watch.elapsed());
                let number = arrivals.posted(due + offset);
                receiver = (receiver + 1) % RECEIVERS;
                let event_type = format!("bench.receiver-{receiver}");
                let body = Some(events.next_of(&event_type, &Arrivals::mark(number)).into());
                if target.exchange(&mut connection, body, &mut pacer.measured).await? {
                    arrivals.accepted(number);
                }
            }
            Ok(pacer.measured)
        }
    })
    .await
}
