//! The scenario `inbox`: consumers that receive and acknowledge what waits in the default inbox.

use std::time::Duration;

use hookgate::cli::CliError;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use serde::Deserialize;

use crate::args::{RunArgs, Scenario};
use crate::client::ApiClient;
use crate::connection::Connection;
use crate::event_source::EventSource;
use crate::load::Load;
use crate::pacer::Pacer;
use crate::report::Measured;
use crate::server::Server;
use crate::target::Target;

/// Events per page at most.
pub(crate) const BATCH_MAX: u32 = 500;
/// Events posted per second of a run, before it begins: more than are received in it.
const POSTED_PER_SECOND: u64 = 50_000;
/// Events posted before a run at most.
const POSTED_MAX: u64 = 1_000_000;
/// Events per request that posts them.
const POSTED_AT_ONCE: u32 = 1_000;
/// Connections that post them.
const POSTING: u32 = 4;

/// An answer, as far as a consumer reads it here.
#[derive(Deserialize)]
struct Page {
    data: Vec<Received>,
}

#[derive(Deserialize)]
struct Received {
    id: String,
}

/// Posts events and lets a consumer per connection receive and acknowledge them, `--batch` at a time. A request is both
/// calls; pages that are not full count for nothing. The events are stored before the measurement begins.
pub(crate) async fn run(args: &RunArgs, server: &Server, load: Load) -> Result<Measured, CliError> {
    let tenant = ApiClient::new(server.authority(), server.api_key());
    // The first read opens it.
    tenant.call("GET", "/api/inbox?limit=1", "").await?;
    post(args, server, load.duration).await?;
    server.settle().await;
    let key = server.api_key().to_owned();
    let (authority, batch) = (server.authority().to_owned(), args.batch.min(BATCH_MAX));
    load.drive(server.authority(), |connection, pacer| {
        let consumer =
            Consumer { connection, key: key.clone(), authority: authority.clone(), batch };
        consumer.consume(pacer)
    })
    .await
}

/// Fills the inbox.
async fn post(args: &RunArgs, server: &Server, duration: Duration) -> Result<(), CliError> {
    let target = Target::new(Scenario::IngestBatch, args, server);
    let events = POSTED_PER_SECOND.saturating_mul(duration.as_secs().max(1)).min(POSTED_MAX);
    let requests = events.div_ceil(u64::from(POSTED_AT_ONCE)).div_ceil(u64::from(POSTING));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..POSTING {
        let (target, source) = (target.clone(), EventSource::new(args));
        tasks.spawn(async move {
            let mut connection = Connection::open(&target.authority).await?;
            let mut posted = Measured::new()?;
            let mut left = requests;
            while left > 0 {
                let body = source.next_batch(POSTED_AT_ONCE);
                if target.exchange(&mut connection, Some(body.into()), &mut posted).await? {
                    left -= 1;
                } else {
                    // The journal is full.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            Ok::<_, CliError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

struct Consumer {
    connection: Connection,
    key: String,
    authority: String,
    batch: u32,
}

impl Consumer {
    async fn consume(mut self, mut pacer: Pacer) -> Result<Measured, CliError> {
        let path = format!("/api/inbox?limit={}&visibility_seconds=600", self.batch);
        while let Some(due) = pacer.next().await {
            let (status, body) = self.send("GET", &path, Bytes::new()).await?;
            if status != StatusCode::OK {
                pacer.measured.error(status.as_str());
                continue;
            }
            let Page { data } = serde_json::from_slice(&body)?;
            if data.is_empty() {
                pacer.measured.error("empty");
                break;
            }
            let ids: Vec<String> = data.iter().map(|event| format!("\"{}\"", event.id)).collect();
            let body = format!(r#"{{"ids":[{}]}}"#, ids.join(","));
            let (status, _) = self.send("POST", "/api/ack", body.into()).await?;
            if status != StatusCode::OK {
                pacer.measured.error(status.as_str());
            } else if data.len() == self.batch as usize {
                pacer.measured.success(pacer.watch.elapsed().saturating_sub(due));
            }
        }
        Ok(pacer.measured)
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), CliError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("x-api-key", &self.key)
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        Ok(self.connection.send(request).await?)
    }
}
