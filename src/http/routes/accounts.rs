//! Accounts and event types that were seen, and summaries of accounts.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::analytics::{KeptSummary, SummaryKey};
use crate::api::accounts::{self, SummaryWindow};
use crate::api::views::{AccountSample, AccountSummary, AccountView, EventTypePage};
use crate::api::{Refusal, Subsystems};
use crate::domain::{LabelCursor, ListCursor, Timestamp, Violation};
use crate::http::error::ApiError;
use crate::http::extract::{AccountId, EventsRead, Scoped};
use crate::http::header_extract::IfNoneMatch;
use crate::http::openapi::Cacheable;
use crate::http::request::{ForwardPage, LabelList, Number, Parameters, WindowName, query_fields};
use crate::http::respond::{Json, WrittenAnswer};
use crate::http::state::AppState;
use crate::store::StoreError;

type Top = Number<1, { SummaryWindow::TOP_MAX }>;
type SampleSize = Number<1, 100>;

/// Accounts in a sample by default.
const SAMPLE_DEFAULT: u32 = 10;

query_fields! {
    /// What is summarised.
    pub(in crate::http) struct SummaryQuery {
        /// The window, which ends now.
        window: WindowName,
        /// Instead of `window`: events from this time on, to the minute.
        from: Timestamp,
        /// With `from`: events before this time; by default until now.
        to: Timestamp,
        /// Users listed at most.
        top: Top,
    }
}

query_fields! {
    /// How many accounts are drawn.
    pub(in crate::http) struct SampleQuery {
        /// Accounts at most.
        limit: SampleSize,
    }
}

/// `GET /api/accounts`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    list: LabelList,
) -> Result<Json<ForwardPage<AccountView>>, ApiError> {
    let (after, limit) = (list.listing.after(), list.page_limit());
    let page = accounts::list(app.replica_reads(), tenant.org_id, after, limit).await?;
    Ok(Json(list.listing.forward_page(page)))
}

/// `GET /api/accounts/sample`.
pub(in crate::http) async fn sample(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Parameters(SampleQuery { limit }): Parameters<SampleQuery>,
) -> Result<Json<AccountSample>, ApiError> {
    let limit = limit.map_or(SAMPLE_DEFAULT, |limit| limit.0);
    Ok(Json(accounts::sample(app.replica_reads(), tenant.org_id, limit).await?))
}

/// `GET /api/event-types`.
pub(in crate::http) async fn event_types(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    list: LabelList,
) -> Result<Json<EventTypePage<ListCursor<LabelCursor>>>, ApiError> {
    let (after, limit) = (list.listing.after(), list.page_limit());
    let page = accounts::event_types(app.replica_reads(), tenant.org_id, after, limit).await?;
    Ok(Json(page.with_cursor(|cursor| list.listing.cursor(cursor, false))))
}

/// `GET /api/accounts/{id}/summary`: at most a minute old, or 304 where the caller has it.
pub(in crate::http) async fn summary(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    AccountId(account_id): AccountId,
    Parameters(query): Parameters<SummaryQuery>,
    known: IfNoneMatch,
) -> Result<WrittenAnswer<Cacheable<Json<AccountSummary>>>, ApiError> {
    let window = window(&query, app.subsystems().clock.now()).map_err(ApiError::invalid)?;
    let top = query.top.map_or(SummaryWindow::TOP_DEFAULT, |top| top.0);
    let org = tenant.org_id;
    let key = SummaryKey {
        org,
        account_id: account_id.clone(),
        span: if let SummaryWindow::Custom(span) = window { Some(span) } else { None },
        length: window.length(),
        top,
    };
    let look = |subsystems: Subsystems| {
        let account_id = account_id.clone();
        async move { accounts::summary(&subsystems, org, &account_id, window, top).await }
    };
    let read = async {
        let summary = app.look_up(look).await?;
        let unwritable = |error: serde_json::Error| StoreError::Corrupt(error.to_string());
        serde_json::to_vec(&summary).map_err(|error| Refusal::Store(unwritable(error)))
    };
    let kept = app.summaries().get(key, read).await.map_err(accounts::shared)?;
    answer(kept, &known).map(Into::into)
}

/// The window that a query names.
fn window(query: &SummaryQuery, now: Timestamp) -> Result<SummaryWindow, Violation> {
    let SummaryQuery { window, from, to, top: _ } = query;
    match (window, from, to) {
        (Some(_), Some(_), _) => {
            Err(Violation::new("from", "conflict", "cannot be combined with window"))
        }
        (Some(_), _, Some(_)) => {
            Err(Violation::new("to", "conflict", "cannot be combined with window"))
        }
        (None, None, Some(_)) => Err(Violation::new("from", "required", "is required with to")),
        (None, Some(from), to) => SummaryWindow::between(*from, to.unwrap_or(now)),
        (window, None, None) => Ok(window.map_or(SummaryWindow::Last24Hours, |window| window.0)),
    }
}

fn answer(kept: KeptSummary, known: &IfNoneMatch) -> Result<Response, ApiError> {
    let KeptSummary { body, etag, fresh_seconds } = kept;
    let is_known = known.has(&etag);
    let etag = HeaderValue::try_from(etag).map_err(ApiError::internal)?;
    let control = format!("private, max-age={fresh_seconds}");
    let control = HeaderValue::try_from(control).map_err(ApiError::internal)?;
    let headers = [(ETAG, etag), (CACHE_CONTROL, control)];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((headers, json, body).into_response())
}
