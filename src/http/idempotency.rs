//! `Idempotency-Key`: a `POST` that is sent again runs once, and gets the answer that it had for a day.
//!
//! This is for every `POST` but those of single events, whose key is their dedup id. An answer that holds a key or a
//! secret is not kept; its repeat learns what was created. A request that was refused may be sent again. A request goes
//! on, and its answer is kept, also when its client is told that it took too long ([`super::settling`]).
//!
//! **Invariant:** a kept answer is given to the API key alone that asked first, so no scope is widened.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, LOCATION};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::byte_budget::Owner;
use super::error::ApiError;
use super::read_limit::ReadPermit;
use super::request_context::RequestContext;
use super::respond::HoldsSecret;
use super::state::AppState;
use super::{body, charges, extract, paths, respond};
use crate::domain::{ApiKeyId, IdempotencyKey, OrgId, Timestamp};
use crate::store::{IdempotencyClaim, KeptAnswer, NamedRequest, Store};
use crate::telemetry::LineLimit;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is a kept one.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Bytes of a kept answer at most. The ids of a thousand events are a third of it; a larger answer is not kept.
const KEPT_BYTES_MAX: usize = 128 * 1024;
/// A claim whose request was not answered for this long, and for twice `REQUEST_TIMEOUT`, is taken over.
const ABANDONED_AFTER: Duration = Duration::from_mins(1);

/// The key in the headers, if there is one.
///
/// # Errors
/// When it is malformed.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    IdempotencyKey::parse(value.as_bytes()).map(Some).map_err(ApiError::invalid)
}

/// Whether a request runs once by its key: a `POST` with one that is no single event.
pub(super) fn applies(request: &Request) -> bool {
    request.method() == Method::POST
        && request.headers().contains_key(&IDEMPOTENCY_KEY)
        && !paths::is_single_event(request.uri().path())
}

/// Runs a request once.
///
/// # Errors
/// When the key is malformed or another request's, the request is running, or the caller or the store refuse.
pub(super) async fn once(
    app: &AppState,
    request: Request,
    context: &RequestContext,
    run: impl FnOnce(Request) -> BoxFuture<'static, Response> + Send + 'static,
) -> Result<Response, ApiError> {
    let Some(name) = key(request.headers())? else { return Ok(run(request).await) };
    let caller = extract::caller(request.headers(), app, context.peer).await?;
    if caller.suspended {
        // Its route refuses it.
        return Ok(run(request).await);
    }
    charges::take_read(app, &caller)?;
    let (mut head, body) = request.into_parts();
    let (owner, bytes_max) = (Owner::of(&caller), body_bytes_max(app, &head));
    let body = body::read_beside(app, owner, &head.headers, body, bytes_max).await;
    let body = body.map_err(|error| match head.uri.path() {
        paths::BATCHES => {
            error.naming_payload_limit(&app.settings().new_event_limits(&caller.limits))
        }
        _ => error,
    })?;
    let digest = digest(&head, &body);
    // By one clock for all servers of a database: one that is ahead takes over no claim that another works on.
    let at = app.subsystems().clock.schedule();
    let (key, org) = (caller.key_id, caller.role.org_id());
    let claimed = ClaimedKey { key, org, name, digest, at };
    let abandoned_after = ABANDONED_AFTER.max(2 * app.settings().request_timeout);
    let store = &app.subsystems().store;
    // Not before the body is whole: a client that sends it slowly would keep others from reading.
    let looking = ReadPermit::take_charged(app, &caller).await?;
    let claim = store.claim_idempotency_key(claimed.named(), abandoned_after).await?;
    drop(looking);
    match claim {
        IdempotencyClaim::New => {
            // It was decoded, and is whole.
            head.headers.remove(CONTENT_ENCODING);
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            let request = Request::from_parts(head, Body::from(body.bytes()));
            let settled = {
                let app = app.clone();
                async move {
                    let response = run(request).await;
                    drop(body);
                    settle(&app, claimed, response).await
                }
            };
            app.settling().outlive(settled).await
        }
        IdempotencyClaim::Answered(answer) => repeated(answer),
        IdempotencyClaim::InProgress => Err(ApiError::IdempotencyInProgress),
        IdempotencyClaim::OtherRequest => Err(ApiError::IdempotencyKeyReused),
    }
}

/// The largest body that a route of this path takes.
fn body_bytes_max(app: &AppState, head: &Parts) -> usize {
    if head.uri.path() == paths::BATCHES {
        app.settings().batch_bytes_max
    } else {
        super::request::BODY_BYTES_MAX
    }
}

/// What a request asks for. Its parts cannot run into one another: none but the last has a line feed.
fn digest(head: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(head.uri.path_and_query().map_or("/", |path| path.as_str()));
    hash.update(b"\n");
    hash.update(body);
    hash.finalize().into()
}

/// A request that is this server's to run.
struct ClaimedKey {
    key: ApiKeyId,
    org: Option<OrgId>,
    name: IdempotencyKey,
    digest: [u8; 32],
    at: Timestamp,
}

impl ClaimedKey {
    fn named(&self) -> NamedRequest<'_> {
        let Self { key, org, name, digest, at } = self;
        NamedRequest { key: *key, org: *org, name, digest, at: *at }
    }

    /// Keeps the answer, or gives the claim up without one.
    async fn settle(&self, store: &Store, answer: Option<&KeptAnswer>) -> crate::store::Result<()> {
        match answer {
            Some(answer) => store.settle_idempotency_key(self.named(), answer).await,
            None => store.release_idempotency_key(self.named()).await,
        }
    }
}

/// Keeps the answer to a request that was not refused. What the store does not take now is offered again in the
/// background: the request has run all the same, and its answer does not wait.
async fn settle(
    app: &AppState,
    claimed: ClaimedKey,
    response: Response,
) -> Result<Response, ApiError> {
    let (response, answer) = if response.status().is_success() {
        let (response, answer) = kept_answer(response).await?;
        (response, Some(answer))
    } else {
        (response, None)
    };
    let store = app.subsystems().store.clone();
    if let Err(error) = claimed.settle(&store, answer.as_ref()).await {
        tracing::debug!(%error, "cannot keep the answer to a request with an Idempotency-Key yet");
        let kept = Arc::new((claimed, store, answer));
        let offer = move || {
            let kept = Arc::clone(&kept);
            async move {
                let (claimed, store, answer) = &*kept;
                claimed.settle(store, answer.as_ref()).await
            }
        };
        if !app.settling().offer_again(offer, log_failure) {
            log_failure(Err(error));
        }
    }
    Ok(response)
}

/// What repeats get of an answer.
async fn kept_answer(response: Response) -> Result<(Response, KeptAnswer), ApiError> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(ApiError::internal)?.to_bytes();
    let location = head.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let is_kept = head.extensions.get::<HoldsSecret>().is_none() && body.len() <= KEPT_BYTES_MAX;
    let answer = KeptAnswer {
        status: head.status.as_u16(),
        location: location.map(str::to_owned),
        object: object(&body),
        body: is_kept.then(|| body.to_vec()),
    };
    Ok((Response::from_parts(head, Body::from(body)), answer))
}

/// Answers that could not be kept.
static UNKEPT_ANSWERS: LineLimit<()> = LineLimit::new();

/// The request was answered all the same; only its repeats are affected.
fn log_failure(result: crate::store::Result<()>) {
    if let Err(error) = result
        && let Some(unlogged) = UNKEPT_ANSWERS.due(())
    {
        tracing::warn!(
            %error, unlogged,
            "cannot keep the answer to a request with an Idempotency-Key; its repeat may run again"
        );
    }
}

/// The id in an answer.
fn object(body: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    answer.get("id")?.as_str().map(str::to_owned)
}

/// The answer to a repeat.
fn repeated(answer: KeptAnswer) -> Result<Response, ApiError> {
    let KeptAnswer { status, location, object, body } = answer;
    let Some(body) = body else { return Err(ApiError::AlreadyCreated { id: object }) };
    let status = StatusCode::from_u16(status).map_err(ApiError::internal)?;
    let mut response =
        if body.is_empty() { status.into_response() } else { respond::json_bytes(status, body) };
    let headers = response.headers_mut();
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(location) = location {
        headers.insert(LOCATION, HeaderValue::try_from(location).map_err(ApiError::internal)?);
    }
    Ok(response)
}
