//! The form of a change: read, and checked to come from a page of its session.

use std::borrow::Cow;

use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::failure::ConsoleError;
use super::guard;
use super::visitor::Visitor;
use crate::http::body;
use crate::http::byte_budget::Owner;
use crate::http::error::ApiError;
use crate::http::request::{BODY_BYTES_MAX, JsonFields, read_fields};
use crate::http::state::AppState;

/// Fields of a form at most.
const FIELDS_MAX: usize = 300;

/// A form that a visitor has sent.
pub(super) struct PostedForm {
    pub(super) visitor: Visitor,
    pub(super) form: FormData,
}

/// The fields of a form.
#[derive(Debug, Default)]
pub(super) struct FormData(Vec<(String, String)>);

impl FormData {
    /// Reads a body of this form.
    pub(super) async fn read(
        app: &AppState,
        owner: Owner,
        request: Request,
    ) -> Result<Self, ApiError> {
        let taken = "application/x-www-form-urlencoded";
        if !is_form(request.headers()) {
            return Err(ApiError::UnsupportedMediaType { taken });
        }
        let bytes = body::read(app, owner, request, BODY_BYTES_MAX).await?;
        let fields = form_urlencoded::parse(&bytes).take(FIELDS_MAX);
        Ok(Self(fields.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()))
    }

    /// The text of a field; empty if it is not there.
    pub(super) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    /// The same; `None` if it is empty.
    pub(super) fn some(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// Every value of a field.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value.trim()).filter(|text| !text.is_empty())
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// The fields of a JSON body with these values, read by the API's own rules.
    pub(super) fn fields<T: JsonFields>(
        visitor: &Visitor,
        object: Map<String, Value>,
    ) -> Result<T, ConsoleError> {
        read_fields(object, &visitor.app, visitor.open.principal.scopes).map_err(Into::into)
    }
}

/// A number as JSON has it; a text that is none stays one, so that the rules name its violation.
pub(super) fn number(text: Option<&str>) -> Value {
    match text {
        None => Value::Null,
        Some(text) => text.parse::<u64>().map_or_else(|_| text.into(), Value::from),
    }
}

/// The text as JSON; null if there is none.
pub(super) fn text(text: Option<&str>) -> Value {
    text.map_or(Value::Null, Value::from)
}

/// A time as a form writes it: RFC 3339, or a date and time without a zone, which means UTC.
pub(super) fn time(text: &str) -> Cow<'_, str> {
    match text.len() {
        10 => Cow::Owned(format!("{text}T00:00:00Z")),
        16 => Cow::Owned(format!("{text}:00Z")),
        19 => Cow::Owned(format!("{text}Z")),
        _ => Cow::Borrowed(text),
    }
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

impl FromRequest<AppState> for PostedForm {
    type Rejection = Response;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, Response> {
        if !guard::is_same_origin(request.headers()) {
            return Err(ConsoleError::FORGED.into_response());
        }
        let (mut parts, body) = request.into_parts();
        let visitor = Visitor::of(&mut parts, app).await?;
        let request = Request::from_parts(parts, body);
        let owner = Owner::of(&visitor.open.principal);
        let form = FormData::read(app, owner, request).await;
        let form = form.map_err(IntoResponse::into_response)?;
        if !guard::is_token(&visitor.token, form.text("csrf")) {
            return Err(ConsoleError::FORGED.into_response());
        }
        Ok(Self { visitor, form })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_forms_are_utc() {
        assert_eq!(time("2026-01-31"), "2026-01-31T00:00:00Z");
        assert_eq!(time("2026-01-31T12:00"), "2026-01-31T12:00:00Z");
        assert_eq!(time("2026-01-31T12:00:00+01:00"), "2026-01-31T12:00:00+01:00");
    }

    #[test]
    fn empty_fields_are_as_if_they_were_not_there() {
        let form = FormData(vec![("a".into(), " ".into()), ("b".into(), "1".into())]);
        assert_eq!((form.some("a"), form.some("b"), form.some("c")), (None, Some("1"), None));
        assert_eq!((number(form.some("b")), number(Some("x"))), (1.into(), "x".into()));
    }
}
