//! Problem pages: what the `type` of an error answer links to.

use std::borrow::Cow;
use std::str::FromStr;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::openapi::PlainText;
use crate::http::problem::{self, PROBLEMS, Problem};
use crate::http::respond::WrittenAnswer;

/// The code of a problem in a path.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct ProblemCode(&'static Problem);

/// `GET /problems/{code}`: title, status and remedy, as plain text. It needs no key.
pub(in crate::http) async fn page(
    Id(ProblemCode(problem)): Id<ProblemCode>,
) -> Result<WrittenAnswer<PlainText>, ApiError> {
    let Problem { code, status, title, remedy } = problem;
    let mut response =
        Response::new(Body::from(format!("{title} ({status} {code})\n\n{remedy}\n")));
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    Ok(response.into())
}

impl FromStr for ProblemCode {
    type Err = ApiError;

    fn from_str(code: &str) -> Result<Self, ApiError> {
        problem::find(code).map(Self).ok_or(ApiError::NotFound)
    }
}

impl JsonSchema for ProblemCode {
    fn schema_name() -> Cow<'static, str> {
        "ProblemCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes: Vec<&str> = PROBLEMS.iter().map(|problem| problem.code).collect();
        json_schema!({"type": "string", "enum": codes, "description": "The code of an error."})
    }
}
