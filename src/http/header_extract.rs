//! Extractors of single headers.

use axum::extract::FromRequestParts;
use axum::http::header::IF_NONE_MATCH;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::json;

use super::error::ApiError;
use super::problem;
use super::request::{Input, RequestSchema, header};
use crate::domain::{ChangeCursor, Violation};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The entity tags that the caller has, RFC 9110 section 13.1.2.
#[derive(Clone, Debug)]
pub(super) struct IfNoneMatch(Option<HeaderValue>);

/// The id of the last event that a client of a stream has received, HTML Standard section 9.2.4.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastEventId(pub(super) Option<ChangeCursor>);

impl IfNoneMatch {
    /// Whether this one is among them.
    pub(super) fn has(&self, etag: &str) -> bool {
        let tags = self.0.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_it = |tag: &str| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag;
        tags.split(',').map(str::trim).any(is_it)
    }
}

impl<S: Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(parts.headers.get(IF_NONE_MATCH).cloned()))
    }
}

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(id) = parts.headers.get(LAST_EVENT_ID) else { return Ok(Self(None)) };
        let cursor = id.to_str().ok().and_then(|text| text.parse().ok());
        cursor.map(|cursor| Self(Some(cursor))).ok_or_else(|| {
            let rule = "must be the id of an event, as the stream gave it";
            ApiError::Invalid(vec![Violation::new("last-event-id", "format", rule)])
        })
    }
}

impl Input for IfNoneMatch {
    fn describe(schema: &mut RequestSchema) {
        let doc =
            "The `ETag` of an answer that the caller has: if it still holds, the answer is 304.";
        schema.headers.push(header("If-None-Match", doc, &json!({"type": "string"})));
    }
}

impl Input for LastEventId {
    fn describe(schema: &mut RequestSchema) {
        let doc = "The id of the last event that was received: the stream goes on behind it.";
        let cursor = ChangeCursor::json_schema(&mut SchemaGenerator::default());
        schema.headers.push(header("Last-Event-ID", doc, cursor.as_value()));
        schema.problems.push(problem::VALIDATION_FAILED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_compared_weakly() {
        let has =
            |text: &'static str| IfNoneMatch(Some(HeaderValue::from_static(text))).has("\"a\"");
        assert!(has("\"a\"") && has("*") && has("\"b\", W/\"a\""));
        assert!(!has("\"b\"") && !has("a") && !has(""));
        assert!(!IfNoneMatch(None).has("\"a\""));
    }
}
