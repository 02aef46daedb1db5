//! The changes of an organisation as server-sent events, in the form of the HTML Standard, section 9.2
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! A stream looks for changes once a second, in a read like any other: it is charged, waits for a connection, and its
//! key is checked again. Between two looks it holds the text of one step until that is written, and the permit of a
//! stream, nothing else: what a look takes of the budget of answers is given back with it, or streams that wait would
//! take all of it.
//!
//! The API writes changes as JSON, the console as rows of a page ([`FollowsChanges`]).
//!
//! It ends at the stop of the server, when its key is no longer accepted, when its client does not read, and after an
//! hour. The client goes on with the id of the last event that it received.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;

use super::byte_budget::{BytePermit, Owner};
use super::charges;
use super::error::ApiError;
use super::extract::{EventsRead, Scoped};
use super::held_answer;
use super::server::RequestDeadline;
use super::state::AppState;
use super::stream_caller::StreamCaller;
use super::stream_limits::StreamPermit;
use crate::api::changes::{Change, ChangeFilter, ChangeFollower};
use crate::domain::{ChangeCursor, OrgId};
use crate::runtime::Stopwatch;

/// Time between two looks for changes.
const POLL: Duration = Duration::from_secs(1);
/// A stream without changes says this often where to go on, so that its client, and what lies between, knows it open.
const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// How long a stream lasts.
const LASTS: Duration = Duration::from_hours(1);
/// How long a look is tried for that the caller's limits, or the store, do not let through.
const TRIED_MAX: Duration = Duration::from_mins(1);
/// What a step takes as it is read and as it is written.
const STEP_BYTES: usize = 1024 * 1024;

/// Who follows changes, and how they read one.
pub(super) trait FollowsChanges: Send + Sync + 'static {
    /// What is held while a look is made.
    type Reader: Send;

    /// Checks again that the follower may read, and whose changes; holds the permit of one more read.
    fn again(
        &self,
        app: &AppState,
    ) -> impl Future<Output = Result<(OrgId, Self::Reader), ApiError>> + Send;

    /// Writes a change as one event of the stream.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write(text: &mut String, id: ChangeCursor, change: &Change) -> Result<(), ApiError>;
}

/// A stream in progress.
struct Stream<F> {
    app: AppState,
    org: OrgId,
    follower: ChangeFollower,
    caller: F,
    deadline: RequestDeadline,
    /// What is to be said first.
    greeting: Option<Bytes>,
    more: bool,
    since: Stopwatch,
    said: Stopwatch,
    /// What the last step's text takes of the budget of answers.
    held: BytePermit,
    _permit: StreamPermit,
}

/// Answers with the changes of an organisation behind `after`, or from now on. What the stream takes is its owner's.
///
/// # Errors
/// When too many streams are open, or the store fails.
pub(super) async fn answer<F: FollowsChanges>(
    app: AppState,
    (org, owner, reader): (OrgId, Owner, F::Reader),
    caller: F,
    deadline: RequestDeadline,
    (filter, after): (ChangeFilter, Option<ChangeCursor>),
) -> Result<Response, ApiError> {
    let permit = charges::open_stream(&app, owner)?;
    let held = app.answers().permit(owner);
    let (follower, missed) = ChangeFollower::begin(app.reads(), org, filter, after).await?;
    drop(reader);
    let id = follower.cursor();
    let greeting = if missed {
        format!("event: reset\nid: {id}\ndata: {{\"reason\":\"changes_not_kept\"}}\n\n")
    } else {
        format!("id: {id}\n\n")
    };
    let stream = Stream {
        app,
        org,
        follower,
        caller,
        deadline,
        greeting: Some(greeting.into()),
        more: true,
        since: Stopwatch::start(),
        said: Stopwatch::start(),
        held,
        _permit: permit,
    };
    let parts = futures_util::stream::unfold(stream, async |mut stream| {
        let part = stream.part().await?;
        Some((Ok::<_, Infallible>(part), stream))
    });
    let mut response = Response::new(Body::from_stream(parts));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl<F: FollowsChanges> Stream<F> {
    /// The next piece of text; `None` at the end.
    async fn part(&mut self) -> Option<Bytes> {
        self.deadline.restart();
        // The connection has taken what was said before.
        self.held.shrink_to(0);
        if let Some(greeting) = self.greeting.take() {
            return Some(greeting);
        }
        let stop = self.app.shutdown.clone();
        let part = tokio::select! {
            () = stop.requested() => None,
            part = self.next() => part,
        };
        self.said = Stopwatch::start();
        self.deadline.restart();
        part
    }

    /// The next changes, or after a while where to go on.
    async fn next(&mut self) -> Option<Bytes> {
        let mut failing: Option<Stopwatch> = None;
        while self.since.elapsed() < LASTS {
            if !self.more {
                tokio::time::sleep(POLL).await;
            }
            self.deadline.restart();
            match self.step().await {
                Ok(text) if !text.is_empty() => return Some(text.into()),
                Ok(_) => failing = None,
                Err(error) if error.retry_after().is_some() => {
                    self.more = false;
                    if failing.get_or_insert_with(Stopwatch::start).elapsed() > TRIED_MAX {
                        return None;
                    }
                }
                Err(error) => {
                    tracing::debug!(org = %self.org, ?error, "stream of changes ended early");
                    return None;
                }
            }
            if self.said.elapsed() >= ALIVE_EVERY {
                return Some(format!("id: {}\n\n", self.follower.cursor()).into());
            }
        }
        None
    }

    async fn step(&mut self) -> Result<String, ApiError> {
        // It holds the permit of this read.
        let (org, _reader) = self.caller.again(&self.app).await?;
        if org != self.org {
            return Err(ApiError::KeyInvalid);
        }
        held_answer::grow(&self.app, &mut self.held, STEP_BYTES)?;
        let text = self.changes().await;
        self.held.shrink_to(text.as_ref().map_or(0, String::len));
        text
    }

    async fn changes(&mut self) -> Result<String, ApiError> {
        let changes = self.follower.step(self.app.reads()).await?;
        self.more = changes.more;
        let mut text = String::new();
        for (id, change) in &changes.shown {
            F::write(&mut text, *id, change)?;
        }
        Ok(text)
    }
}

/// By the API.
impl FollowsChanges for StreamCaller<EventsRead> {
    type Reader = Scoped<EventsRead>;

    async fn again(&self, app: &AppState) -> Result<(OrgId, Scoped<EventsRead>), ApiError> {
        let reader = Self::again(self, app).await?;
        Ok((reader.org_id, reader))
    }

    fn write(text: &mut String, id: ChangeCursor, change: &Change) -> Result<(), ApiError> {
        let data = serde_json::to_string(change).map_err(ApiError::internal)?;
        // Writing to a string does not fail; JSON has no line breaks outside of payloads.
        let _ = write!(text, "event: {}\nid: {id}\n", change.kind().as_str());
        for line in data.split(['\n', '\r']) {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
        Ok(())
    }
}
