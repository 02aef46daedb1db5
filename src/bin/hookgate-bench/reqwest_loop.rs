//! The peer of `end-to-end`: a loop that posts with reqwest and does nothing else.

use std::sync::Arc;
use std::time::Duration;

use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;
use reqwest::Client;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::RunArgs;
use crate::arrivals::{Arrivals, receive};
use crate::end_to_end::RECEIVERS;
use crate::event_source::payload;
use crate::measure::unless_stopped;
use crate::report::Measured;

/// Posts requests of a webhook's size to receivers like those of the scenario, `--connections` at a
/// time in a closed loop. Nothing is stored, signed or resolved. The latency is the time from post to
/// answer.
pub(crate) async fn run(
    args: &RunArgs,
    duration: Duration,
    stop: &CancellationToken,
) -> Result<Measured, CliError> {
    let arrivals = Arc::new(Arrivals::new(args.receiver_delay, false)?);
    let mut receivers = JoinSet::new();
    let mut urls = Vec::new();
    for _ in 0..RECEIVERS {
        urls.push(receive(&mut receivers, Arc::clone(&arrivals)).await?);
    }
    unless_stopped(stop, post_all(args, urls, duration)).await
}

async fn post_all(
    args: &RunArgs,
    urls: Vec<String>,
    duration: Duration,
) -> Result<Measured, CliError> {
    // Fails if a provider is already installed, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().no_proxy().default_headers(headers()).build()?;
    let body = body(args.payload_bytes as usize);
    let watch = Stopwatch::start();
    let mut loops = JoinSet::new();
    for (_, url) in (0..args.connections).zip(urls.into_iter().cycle()) {
        let (client, body) = (client.clone(), body.clone());
        loops.spawn(async move {
            let mut measured = Measured::new()?;
            while watch.elapsed() < duration {
                let begin = watch.elapsed();
                let answer = client.post(&url).body(body.clone()).send().await?;
                let status = answer.status();
                answer.bytes().await?;
                if status.is_success() {
                    measured.success(watch.elapsed().saturating_sub(begin));
                } else {
                    measured.error(status.as_str());
                }
            }
            Ok::<_, CliError>(measured)
        });
    }
    let mut total = Measured::new()?;
    while let Some(done) = loops.join_next().await {
        total.add(done??)?;
    }
    total.seconds = watch.seconds();
    Ok(total)
}

/// The body of a webhook whose data starts with a number for the receiver to read.
fn body(payload_bytes: usize) -> bytes::Bytes {
    let data = payload(payload_bytes, &Arrivals::mark(0));
    let timestamp = "2026-01-31T12:00:00.000000Z";
    format!(r#"{{"type":"bench.receiver-0","timestamp":"{timestamp}","data":{data}}}"#).into()
}

/// Headers of the size of a webhook's.
fn headers() -> HeaderMap {
    let fixed = HeaderValue::from_static;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, fixed("application/json"));
    headers.insert(USER_AGENT, fixed("Hookgate/0.0.0"));
    headers.insert("webhook-id", fixed("00000000-0000-0000-0000-000000000000"));
    headers.insert("webhook-timestamp", fixed("1769860800"));
    headers.insert("webhook-signature", fixed("v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    headers.insert("traceparent", fixed("00-00000000000000000000000000000001-0000000000000001-01"));
    headers
}
