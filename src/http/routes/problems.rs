//! Problem pages: what the `type` of an error answer links to.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;

use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::problem::{self, Problem};

/// `GET /problems/{code}`: title, status and remedy, as plain text. It needs no key.
pub(in crate::http) async fn page(Id(code): Id<String>) -> Result<Response, ApiError> {
    let Problem { code, status, title, remedy } = problem::find(&code).ok_or(ApiError::NotFound)?;
    let mut response =
        Response::new(Body::from(format!("{title} ({status} {code})\n\n{remedy}\n")));
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response)
}
