//! Entity tags of resources that people change: RFC 9110 sections 8.8.3 and 13.1.1.
//!
//! A tag names the [`Revision`] of a row: it changes when somebody changes the resource, and stays when a counter or the
//! time of the last use moves. `If-Match` makes a change conditional on it, which the store checks within the
//! transaction of the change. It tells nothing of the counters, and so `If-None-Match` is not honoured: a reader would not
//! see that an endpoint fails.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponseParts, ResponseParts};
use serde_json::json;

use super::error::ApiError;
use super::openapi::{Answers, DescribesAnswers};
use super::problem;
use super::request::{Input, RequestSchema, header};
use crate::api::Subsystems;
use crate::domain::{Precondition, Revision, Violation};
use crate::store::StoreError;

/// The header `ETag`, beside an answer.
#[derive(Debug)]
pub(super) struct EntityTag(pub(super) Revision);

/// The tags that a resource must have to be changed.
#[derive(Clone, Debug)]
pub(super) struct IfMatch(Precondition);

impl IfMatch {
    /// The tag that a form was made from.
    pub(super) fn of_form(revision: &str) -> Self {
        Self(Precondition::OneOf(vec![Revision::from_text(revision)]))
    }

    /// The subsystems for a change of a resource that is in this state now.
    ///
    /// # Errors
    /// When it may not be changed in this state.
    pub(super) fn allow(
        self,
        subsystems: &Subsystems,
        current: &Revision,
    ) -> Result<Subsystems, ApiError> {
        if !self.0.holds(current) {
            return Err(ApiError::Store(StoreError::Changed));
        }
        // It may change until then.
        Ok(self.guard(subsystems))
    }

    /// The subsystems for a change of a resource, which the store checks.
    pub(super) fn guard(self, subsystems: &Subsystems) -> Subsystems {
        let store = subsystems.store.clone().only_if(self.0);
        Subsystems { store, ..subsystems.clone() }
    }
}

/// A tag as a header has it.
fn tag(revision: &Revision) -> String {
    format!("\"{revision}\"")
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        precondition(&parts.headers).map(Self)
    }
}

/// Optional white space in header fields.
const SPACE: [char; 2] = [' ', '\t'];

/// The tags in `If-Match`. `*` alone asks for a resource that exists, which every change does. Weak tags match nothing.
fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let malformed = || {
        let rule = "must be * or a list of entity tags, such as \"5f2c\", in quotes";
        ApiError::invalid(Violation::new("if-match", "format", rule))
    };
    let values = headers.get_all(IF_MATCH).iter().map(HeaderValue::to_str);
    let values = values.collect::<Result<Vec<_>, _>>().map_err(|_| malformed())?;
    if values.is_empty() {
        return Ok(Precondition::None);
    }
    // The lines of a field are one list.
    let list = values.join(",");
    if list.trim_matches(SPACE) == "*" {
        return Ok(Precondition::None);
    }
    let tags = strong_tags(&list).ok_or_else(malformed)?;
    Ok(Precondition::OneOf(tags.into_iter().map(Revision::from_text).collect()))
}

/// The strong tags of a list, without their quotes, as RFC 9110 sections 5.6.1 and 8.8.3 write it: `*` is no tag, commas
/// may be in tags, and elements may be empty, but not all of them. `None` if it is no such list.
fn strong_tags(list: &str) -> Option<Vec<&str>> {
    let (mut tags, mut any, mut rest) = (Vec::new(), false, list);
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        if rest.is_empty() {
            return any.then_some(tags);
        }
        let strong = rest.strip_prefix('"');
        let quoted = strong.or_else(|| rest.strip_prefix("W/\""))?;
        let (tag, after) = quoted.split_once('"')?;
        if strong.is_some() {
            tags.push(tag);
        }
        any = true;
        rest = after.trim_start_matches(SPACE);
        if !rest.is_empty() && !rest.starts_with(',') {
            return None;
        }
    }
}

impl Input for IfMatch {
    fn describe(schema: &mut RequestSchema) {
        let doc = "The `ETag` of the resource as the caller has read it: if somebody has changed it since, nothing is done \
                   and the answer is 412. Without it, the last change wins.";
        schema.headers.push(header("If-Match", doc, &json!({"type": "string"})));
        schema.problems.extend([problem::PRECONDITION_FAILED, problem::VALIDATION_FAILED]);
    }
}

impl IntoResponseParts for EntityTag {
    type Error = Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Infallible> {
        // Revisions are base64 or digits, and so always a header value.
        if let Ok(value) = HeaderValue::from_str(&tag(&self.0)) {
            parts.headers_mut().insert(ETAG, value);
        }
        Ok(parts)
    }
}

impl<T: DescribesAnswers> DescribesAnswers for (EntityTag, T) {
    fn describe(answers: &mut Answers<'_>) {
        T::describe(answers);
        answers.headers(&["etag"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&'static str]) -> Option<Precondition> {
        let mut headers = HeaderMap::new();
        for text in texts {
            headers.append(IF_MATCH, HeaderValue::from_static(text));
        }
        precondition(&headers).ok()
    }

    #[test]
    fn tags_are_compared_strongly() {
        let one_of = |texts: &[&str]| {
            let revisions = texts.iter().map(|text| Revision::from_text(text)).collect();
            Some(Precondition::OneOf(revisions))
        };
        assert_eq!(parsed(&[]), Some(Precondition::None));
        assert_eq!(parsed(&["*"]), Some(Precondition::None));
        assert_eq!(parsed(&["\"a\", \"b\"", "\"c\""]), one_of(&["a", "b", "c"]));
        assert_eq!(parsed(&["W/\"a\", \"b\""]), one_of(&["b"]));
        assert_eq!(parsed(&["W/\"a\""]), one_of(&[]));
        assert_eq!(parsed(&[", \"a\" ,\t", "\"b,c\""]), one_of(&["a", "b,c"]));
        assert_eq!(parsed(&["\"*\""]), one_of(&["*"]));
        assert_eq!(parsed(&["*", "\"a\""]), None);
        for malformed in
            ["", ",", "a", "\"a", "\"a\"b\"", "\"a\";", "\"x\", *", "*, \"x\"", "*,*", "w/\"a\""]
        {
            assert_eq!(parsed(&[malformed]), None, "{malformed}");
        }
    }
}
