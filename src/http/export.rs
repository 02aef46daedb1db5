//! Exports: whole lists as NDJSON, a page at a time.
//!
//! A page is read when its client has taken the one before. Meanwhile an export holds the text of one page and a
//! permit of a stream, but no permit of a read and no connection to the store. Each page is a read like any other: it
//! is charged, waits for a connection, and its key is checked again.
//!
//! Behind each page comes a line with its cursor, so that an export which ends early, by an error, by the stop of the
//! server or with its connection, goes on from there. The last line of a whole export has `null`.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::byte_budget::{BytePermit, Owner};
use super::charges;
use super::error::ApiError;
use super::extract::{EventsRead, Scoped};
use super::held_answer::{self, FRAME_BYTES};
use super::request::RequestedList;
use super::server::RequestDeadline;
use super::state::AppState;
use super::stream_caller::StreamCaller;
use super::stream_limits::StreamPermit;
use crate::api::views::DeliveryView;
use crate::api::{dead_letters, deliveries, events};
use crate::domain::{
    Cursor, DeadLetterFilter, DeliveryFilter, EventFilter, OrgId, Page, PageRequest,
};
use crate::runtime::Stopwatch;

/// Bytes of payloads in a page at most, unless its first event alone has more.
const PAYLOAD_BYTES_MAX: usize = 512 * 1024;
/// What a page takes as it is read and as it is written.
const PAGE_BYTES: usize = 4 * PAYLOAD_BYTES_MAX;
/// How long a page is tried for that the caller's limits, or the store, do not let through.
const TRIED_MAX: Duration = Duration::from_mins(1);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is exported.
#[derive(Clone, Debug)]
pub(super) enum Exported {
    /// Events, with their payloads if that is asked for.
    Events(EventFilter, bool),
    Deliveries(DeliveryFilter),
    DeadLetters(DeadLetterFilter),
}

/// A page as it is sent, and what follows it.
struct Part {
    text: Bytes,
    next: Option<Cursor>,
}

/// An export in progress.
struct Export {
    app: AppState,
    org: OrgId,
    exported: Exported,
    listing: RequestedList,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    /// What is left of the page.
    rest: Bytes,
    next: Option<Cursor>,
    held: BytePermit,
    _stream: StreamPermit,
}

/// Answers with the rows behind `after`. The first page is read here, so that what is wrong gets an answer of its own.
///
/// # Errors
/// When too many streams are open or answers in flight, or the first page cannot be read.
pub(super) async fn answer(
    app: AppState,
    reader: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    (exported, listing, after): (Exported, RequestedList, Option<Cursor>),
) -> Result<Response, ApiError> {
    // An export lasts as long as its client reads.
    deadline.lift();
    let org = reader.org_id;
    let owner = Owner::Org(org);
    let stream = charges::open_stream(&app, owner)?;
    let held = held_answer::reserve(&app, owner, PAGE_BYTES)?;
    let Part { text, next } = exported.page(&app, (org, listing), after).await?;
    drop(reader);
    let mut export = Export {
        app,
        org,
        exported,
        listing,
        caller,
        deadline,
        rest: text,
        next,
        held,
        _stream: stream,
    };
    export.held.overdraw_to(export.rest.len());
    let frames = futures_util::stream::unfold(export, async |mut export| {
        let frame = export.frame().await?;
        Some((Ok::<_, Infallible>(frame), export))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let media_type = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}

impl Export {
    /// The next piece of text; `None` at the end.
    async fn frame(&mut self) -> Option<Bytes> {
        self.deadline.restart();
        if self.rest.is_empty() {
            let after = self.next.take()?;
            let part = self.part(after).await?;
            self.held.overdraw_to(part.text.len());
            (self.rest, self.next) = (part.text, part.next);
            self.deadline.restart();
        }
        let bytes = self.rest.len().min(FRAME_BYTES);
        Some(self.rest.split_to(bytes))
    }

    /// The page behind `after`; `None` when the server stops: the client has the cursor of the page before.
    async fn part(&self, after: Cursor) -> Option<Part> {
        let stop = self.app.shutdown.clone();
        if stop.is_requested() {
            return None;
        }
        tokio::select! {
            () = stop.requested() => None,
            part = self.tried(after) => Some(part.unwrap_or_else(|error| self.end(after, &error))),
        }
    }

    /// The page behind `after`, tried again while it can pass later.
    async fn tried(&self, after: Cursor) -> Result<Part, ApiError> {
        let since = Stopwatch::start();
        loop {
            let error = match self.read(after).await {
                Ok(part) => return Ok(part),
                Err(error) => error,
            };
            let pause = error.retry_after().filter(|_| since.elapsed() < TRIED_MAX);
            let Some(pause) = pause else { return Err(error) };
            self.deadline.restart();
            tokio::time::sleep(pause.min(PAUSE_MAX)).await;
        }
    }

    async fn read(&self, after: Cursor) -> Result<Part, ApiError> {
        // It holds the permit of this read.
        let reader = self.caller.again(&self.app).await?;
        if reader.org_id != self.org {
            return Err(ApiError::KeyInvalid);
        }
        self.exported.page(&self.app, (self.org, self.listing), Some(after)).await
    }

    /// The end of an export that cannot go on.
    fn end(&self, after: Cursor, error: &ApiError) -> Part {
        tracing::debug!(org = %self.org, ?error, "export ended early");
        let next_cursor = self.listing.cursor(after, false);
        let problem = json!({"code": error.problem().code, "detail": error.to_string()});
        let line = json!({"next_cursor": next_cursor, "error": problem});
        Part { text: format!("{line}\n").into(), next: None }
    }
}

impl Exported {
    async fn page(
        &self,
        app: &AppState,
        (org, listing): (OrgId, RequestedList),
        after: Option<Cursor>,
    ) -> Result<Part, ApiError> {
        let reads = app.replica_reads();
        let page =
            PageRequest { limit: PageRequest::LIMIT_MAX, after, order: listing.reading_order() };
        match self {
            Self::Events(filter, with_payloads) => {
                let bytes_max = with_payloads.then_some(PAYLOAD_BYTES_MAX);
                let page = events::list_within(reads, org, filter, page, bytes_max).await?;
                written(app, listing, page).await
            }
            Self::Deliveries(filter) => {
                let page = deliveries::list(reads, org, filter, page).await?;
                written(app, listing, page.map(DeliveryView::from)).await
            }
            Self::DeadLetters(filter) => {
                let page = dead_letters::list(reads, org, filter, page).await?;
                written(app, listing, page).await
            }
        }
    }
}

/// The lines of a page and that of its cursor, written on the background threads.
async fn written<T: Serialize + Send + 'static>(
    app: &AppState,
    listing: RequestedList,
    page: Page<T>,
) -> Result<Part, ApiError> {
    let writing = async move {
        let mut text = Vec::new();
        for row in &page.data {
            serde_json::to_writer(&mut text, row)?;
            text.push(b'\n');
        }
        let next = page.next_cursor;
        let next_cursor = next.map(|cursor| listing.cursor(cursor, false));
        serde_json::to_writer(&mut text, &json!({ "next_cursor": next_cursor }))?;
        text.push(b'\n');
        text.shrink_to_fit();
        Ok::<_, serde_json::Error>(Part { text: text.into(), next })
    };
    let written = app.background.spawn(writing).await.map_err(ApiError::internal)?;
    written.map_err(ApiError::internal)
}
