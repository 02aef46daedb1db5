//! Answers of the server, and what tests expect of them.

use super::conformance;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

const ERRORS: &str = include_str!("../../../docs/errors.md");

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON, once the status is this one.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.text).unwrap()
    }

    /// The body as it is, once the status is this one.
    pub(crate) fn expect_text(&self, status: u16) -> &str {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        &self.text
    }

    /// A problem with this status and code, in the form that every problem has and explained in
    /// `docs/errors.md`. Returns its body.
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(problem["type"], format!("/problems/{code}"));
        assert_eq!(problem["trace_id"], self.header("x-trace-id"));
        let explained = ERRORS.lines().any(|line| {
            line.starts_with(&format!("| {status} |")) && line.contains(&format!("`{code}`"))
        });
        assert!(explained, "docs/errors.md does not explain {status} {code}");
        for field in ["title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }

    /// `validation_failed` with exactly these fields and codes. Returns the body.
    pub(crate) fn expect_faults(&self, faults: &[(&str, &str)]) -> Value {
        let problem = self.expect_problem(422, "validation_failed");
        let errors = problem["errors"].as_array().unwrap();
        let text = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
        let found: Vec<_> =
            errors.iter().map(|error| (text(error, "field"), text(error, "code"))).collect();
        let expected: Vec<_> =
            faults.iter().map(|(field, code)| ((*field).to_owned(), (*code).to_owned())).collect();
        assert_eq!(found, expected);
        problem
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.unwrap_or_else(|| panic!("no {name}: {:?}", self.headers)).to_str().unwrap()
    }
}

/// Declares the body as JSON.
pub(crate) fn json(request: RequestBuilder, body: impl Into<reqwest::Body>) -> RequestBuilder {
    request.header("content-type", "application/json").body(body)
}

/// Sends a request and reads the answer to its end, but for a stream, which has none. The answer must be as the OpenAPI
/// document says.
pub(crate) async fn answer(request: RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = client.execute(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let text = if is_stream { String::new() } else { response.text().await.unwrap() };
    let answer = Answer { status, headers, text };
    conformance::check(&method, &path, &answer);
    answer
}
