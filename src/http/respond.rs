//! Responses: typed JSON answers, and errors as RFC 9457 problem details.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use schemars::JsonSchema;
use serde::Serialize;

use super::error::ApiError;
use super::error_detail::Fault;
use super::openapi::{Answers, DescribesAnswers};
use super::ratelimit_headers::{self, Counted};
use super::state::AppState;
use crate::domain::{TraceId, Violation};
use crate::limit::RateLimitState;
use crate::telemetry::LineLimit;

/// An error, as RFC 9457 section 3 describes it.
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "Problem")]
pub(super) struct ProblemBody<'a> {
    /// The page that explains it, `/problems/{code}`: a relative reference.
    r#type: String,
    /// What is wrong, for people.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, for people.
    detail: String,
    /// A stable code, for programs.
    code: &'a str,
    /// The trace of the request, under which the log has it.
    trace_id: String,
    /// Every violation, for `validation_failed`.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
}

/// 200 with a JSON body.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// 201 with a new resource and its location.
#[derive(Debug)]
pub(super) struct Created<T> {
    pub(super) location: String,
    pub(super) body: T,
}

/// 202 with what was begun.
#[derive(Debug)]
pub(super) struct Accepted<T>(pub(super) T);

/// One of two answers.
#[derive(Debug)]
pub(super) enum Either<A, B> {
    First(A),
    Second(B),
}

/// An answer that holds a key or a secret, which is not kept for repeats of its request.
#[derive(Debug)]
pub(super) struct Secret<T>(pub(super) T);

/// 503 with what is wrong, for a probe.
#[derive(Debug)]
pub(super) struct Unavailable<T>(pub(super) T);

/// A response that a handler has written by itself. `A` describes it.
#[derive(Debug)]
pub(super) struct WrittenAnswer<A>(Response, PhantomData<A>);

/// Marks the answer of a [`Secret`].
#[derive(Clone, Copy, Debug)]
pub(super) struct HoldsSecret;

/// 204.
#[derive(Debug)]
pub(super) struct NoContent;

/// The header `Location`, beside an answer.
#[derive(Debug)]
pub(super) struct Location(pub(super) String);

/// The headers of the rate limit on events, beside an answer.
#[derive(Debug)]
pub(super) struct RateLimitHeaders(pub(super) RateLimitState);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (Location(self.location), json(StatusCode::CREATED, &self.body)).into_response()
    }
}

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        json(StatusCode::ACCEPTED, &self.0)
    }
}

impl<A: IntoResponse, B: IntoResponse> IntoResponse for Either<A, B> {
    fn into_response(self) -> Response {
        match self {
            Self::First(answer) => answer.into_response(),
            Self::Second(answer) => answer.into_response(),
        }
    }
}

impl<T: Serialize> IntoResponse for Unavailable<T> {
    fn into_response(self) -> Response {
        json(StatusCode::SERVICE_UNAVAILABLE, &self.0)
    }
}

impl<A> IntoResponse for WrittenAnswer<A> {
    fn into_response(self) -> Response {
        self.0
    }
}

impl<A> From<Response> for WrittenAnswer<A> {
    fn from(response: Response) -> Self {
        Self(response, PhantomData)
    }
}

impl<T: IntoResponse> IntoResponse for Secret<T> {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        response.extensions_mut().insert(HoldsSecret);
        response
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponseParts for Location {
    type Error = ApiError;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, ApiError> {
        let location = HeaderValue::try_from(self.0).map_err(ApiError::internal)?;
        parts.headers_mut().insert(LOCATION, location);
        Ok(parts)
    }
}

impl IntoResponseParts for RateLimitHeaders {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        ratelimit_headers::write_headers(parts.headers_mut(), Counted::Events, self.0);
        Ok(parts)
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut body) => {
            // It may stay until it is read, and then its spare capacity would, too.
            body.shrink_to_fit();
            json_bytes(status, body)
        }
        Err(error) => ApiError::internal(error).into_response(),
    }
}

/// 200 with a JSON body of about `bytes`, which is written on the background threads: no other request waits for
/// megabytes of it.
pub(super) async fn large_json(
    app: &AppState,
    body: impl Serialize + Send + 'static,
    bytes: usize,
) -> Result<Response, ApiError> {
    let writing = async move {
        let mut text = Vec::with_capacity(bytes);
        serde_json::to_writer(&mut text, &body).map(|()| text)
    };
    let written = app.background.spawn(writing).await.map_err(ApiError::internal)?;
    let mut text = written.map_err(ApiError::internal)?;
    text.shrink_to_fit();
    Ok(json_bytes(StatusCode::OK, text))
}

/// An answer whose body is JSON text already.
pub(super) fn json_bytes(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// Requests that failed because something that the server depends on did, by the code of the answer.
static FAILED_REQUESTS: LineLimit<&'static str> = LineLimit::new();

/// An error as the caller gets it. Logs the error, loudly where operators should know of it.
pub(super) fn problem(error: &ApiError, trace_id: &TraceId) -> Response {
    match error.fault() {
        Fault::Client => tracing::debug!(%trace_id, refusal = ?error, "request refused"),
        Fault::Dependency => {
            tracing::debug!(%trace_id, refusal = ?error, "request failed");
            // Every request fails so while the store is away.
            if let Some(unlogged) = FAILED_REQUESTS.due(error.problem().code) {
                tracing::warn!(%trace_id, cause = ?error, unlogged, "request failed");
            }
        }
        Fault::Internal => tracing::error!(%trace_id, cause = ?error, "request failed"),
    }
    let mut response = Response::new(Body::from(problem_body(error, trace_id)));
    *response.status_mut() = status(error);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(wait) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(ratelimit_headers::whole_seconds(wait)));
    }
    if let Some((counted, state)) = error.rate_limit() {
        ratelimit_headers::write_headers(headers, counted, state);
    }
    if matches!(error, ApiError::UnsupportedEncoding) {
        // RFC 9110 section 15.5.16.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate, zstd, identity"));
    }
    if error.problem().status == 401 {
        for challenge in ["ApiKey realm=\"hookgate\"", "Bearer realm=\"hookgate\""] {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
    }
    response
}

fn status(error: &ApiError) -> StatusCode {
    // The registry holds valid codes only; the other branch is never taken.
    StatusCode::from_u16(error.problem().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn problem_body(error: &ApiError, trace_id: &TraceId) -> Vec<u8> {
    let problem = error.problem();
    let errors: &[Violation] = if let ApiError::Invalid(all) = error { all } else { &[] };
    let body = ProblemBody {
        r#type: problem.page(),
        title: problem.title,
        status: problem.status,
        detail: error.to_string(),
        code: problem.code,
        trace_id: trace_id.to_string(),
        errors,
    };
    // Strings and numbers always serialise; an empty body would still carry the status.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// Leaves the error in the response for the middleware, which writes the answer: only it knows the
/// trace id.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status(&self);
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

impl<T: JsonSchema> DescribesAnswers for Json<T> {
    fn describe(answers: &mut Answers<'_>) {
        answers.json::<T>(200);
    }
}

impl<T: JsonSchema> DescribesAnswers for Created<T> {
    fn describe(answers: &mut Answers<'_>) {
        answers.json::<T>(201);
        answers.headers(&["location"]);
    }
}

impl<T: JsonSchema> DescribesAnswers for Accepted<T> {
    fn describe(answers: &mut Answers<'_>) {
        answers.json::<T>(202);
    }
}

impl<A: DescribesAnswers, B: DescribesAnswers> DescribesAnswers for Either<A, B> {
    fn describe(answers: &mut Answers<'_>) {
        A::describe(answers);
        B::describe(answers);
    }
}

impl<T: JsonSchema> DescribesAnswers for Unavailable<T> {
    fn describe(answers: &mut Answers<'_>) {
        answers.json::<T>(503);
    }
}

impl DescribesAnswers for NoContent {
    fn describe(answers: &mut Answers<'_>) {
        answers.empty(204);
    }
}

impl<T: DescribesAnswers> DescribesAnswers for Secret<T> {
    fn describe(answers: &mut Answers<'_>) {
        T::describe(answers);
    }
}

impl<T: DescribesAnswers> DescribesAnswers for WrittenAnswer<T> {
    fn describe(answers: &mut Answers<'_>) {
        T::describe(answers);
    }
}

impl<T: DescribesAnswers> DescribesAnswers for (RateLimitHeaders, T) {
    fn describe(answers: &mut Answers<'_>) {
        T::describe(answers);
        answers.headers(&["ratelimit", "ratelimit-policy"]);
    }
}

impl<T: DescribesAnswers> DescribesAnswers for (Location, RateLimitHeaders, T) {
    fn describe(answers: &mut Answers<'_>) {
        <(RateLimitHeaders, T)>::describe(answers);
        answers.headers(&["location"]);
    }
}
