//! Posts made-up events to a server.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use serde::Serialize;
use serde_json::value::RawValue;

use super::CliError;
use crate::cli::server::{ApiServer, client};
use crate::domain::Event;

/// The longest that the server may take for a batch.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// How often a batch is sent again after an error that passes, and the wait where the server names none.
const REPEATS_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Bytes of a refusal that are shown.
const SHOWN_BYTES_MAX: usize = 1_000;

/// A server that takes events.
pub(super) struct EventPoster {
    client: Client,
    url: Url,
    key: String,
}

/// An event as it is posted. Its id is its `dedup_id`, so that a batch can be sent again.
#[derive(Serialize)]
struct Posted<'a> {
    r#type: &'a str,
    payload: &'a RawValue,
    dedup_id: String,
    account_id: Option<&'a str>,
    user_id: Option<&'a str>,
    timestamp: String,
}

impl EventPoster {
    pub(super) fn new(server: &ApiServer) -> Result<Self, CliError> {
        let url = server.base().join("/api/events/batch")?;
        Ok(Self { client: client(ANSWER_MAX)?, url, key: server.key().to_owned() })
    }

    /// Posts a batch; again while the server is busy, limits the rate or is away.
    pub(super) async fn post(&self, events: &[Arc<Event>]) -> Result<(), CliError> {
        let posted =
            events.iter().map(|event| Posted::new(event)).collect::<Result<Vec<_>, _>>()?;
        let body = serde_json::to_vec(&posted)?;
        let mut repeats = 0;
        loop {
            let (why, pause) = match self.send(body.clone()).await {
                Ok(answer) if answer.status() == StatusCode::ACCEPTED => return Ok(()),
                Ok(answer) if passes(answer.status()) => {
                    (answer.status().to_string(), pause_of(&answer))
                }
                Ok(answer) => return Err(refused(answer).await),
                Err(error) => (error.to_string(), PAUSE),
            };
            repeats += 1;
            if repeats > REPEATS_MAX {
                return Err(format!("{} does not take events: {why}", self.url).into());
            }
            tracing::debug!(why, ?pause, "posting a batch again");
            tokio::time::sleep(pause).await;
        }
    }

    async fn send(&self, body: Vec<u8>) -> reqwest::Result<reqwest::Response> {
        let request = self.client.post(self.url.clone()).header("X-API-Key", &self.key);
        request.header(CONTENT_TYPE, "application/json").body(body).send().await
    }
}

impl<'a> Posted<'a> {
    fn new(event: &'a Event) -> Result<Self, CliError> {
        Ok(Self {
            r#type: event.event_type.as_str(),
            payload: serde_json::from_slice(&event.payload)?,
            dedup_id: event.id.to_string(),
            account_id: event.account_id.as_deref(),
            user_id: event.user_id.as_deref(),
            timestamp: event.timestamp().to_string(),
        })
    }
}

fn passes(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn pause_of(answer: &reqwest::Response) -> Duration {
    let seconds =
        answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(PAUSE, Duration::from_secs).min(PAUSE_MAX)
}

async fn refused(answer: reqwest::Response) -> CliError {
    let status = answer.status();
    let mut text = answer.text().await.unwrap_or_default();
    text.truncate(text.floor_char_boundary(SHOWN_BYTES_MAX));
    format!("the server refuses the events with {status}: {text}").into()
}
