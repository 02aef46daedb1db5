//! Why a page is not shown, and the page that says so.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::response_headers;
use super::ui::{Button, Html, Panel, escaped, paragraph, plain_page};
use crate::auth::AuthError;
use crate::domain::TraceId;
use crate::http::error::ApiError;
use crate::http::respond;
use crate::store::StoreError;

/// Why a page is not shown.
#[derive(Debug)]
pub(in crate::http) enum ConsoleError {
    /// As the API says it.
    Api(ApiError),
    /// In words for people, under this status and title.
    Told(StatusCode, &'static str, &'static str),
}

impl ConsoleError {
    /// A change that no page of this server has asked for.
    pub(super) const FORGED: Self = Self::Told(
        StatusCode::FORBIDDEN,
        "Request refused",
        "The request does not come from a page of this console, or the page is too old. Nothing was changed. Go back, \
         load the page again and try once more.",
    );
    /// A change in a session that only reads.
    pub(super) const READ_ONLY: Self = Self::Told(
        StatusCode::FORBIDDEN,
        "Only reading",
        "This session may look and change nothing. Nothing was changed.",
    );
}

impl<T: Into<ApiError>> From<T> for ConsoleError {
    fn from(error: T) -> Self {
        Self::Api(error.into())
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        match self {
            // The middleware writes the page: only it knows the trace id.
            Self::Api(error) => error.into_response(),
            Self::Told(status, title, text) => {
                let page =
                    plain_page(title).section(Panel::html("", vec![paragraph(text), back()]));
                page.status(status).into_response()
            }
        }
    }
}

/// The page of an error, in place of an answer with these headers.
pub(in crate::http) fn page(
    error: &ApiError,
    trace_id: &TraceId,
    replaced: &HeaderMap,
) -> Response {
    let mut response = respond::problem(error, trace_id);
    let problem = error.problem();
    let mut parts = vec![];
    if matches!(error, ApiError::Store(StoreError::Unavailable(_))) {
        parts.push(paragraph(
            "The database does not answer. Events are accepted all the same: they wait in the journal until it is back.",
        ));
    } else {
        parts.push(paragraph(&sentence(&error.to_string())));
    }
    parts.push(Html(format!("<p>{}</p>", marked(problem.remedy))));
    let trace = escaped(&trace_id.to_string());
    parts.push(Html(format!("<p class=\"quiet\">Trace <code>{trace}</code></p>")));
    parts.push(back());
    let page = plain_page(problem.title).section(Panel::html("", parts)).into_response();
    *response.body_mut() = page.into_body();
    let headers = response.headers_mut();
    headers.remove(WWW_AUTHENTICATE);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response_headers::secure_like(headers, replaced);
    response
}

fn back() -> Html {
    Button::link("To the overview", "/console", true)
}

/// Text with a capital letter and a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string());
    let end = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{}{}{end}", first.unwrap_or_default(), characters.as_str())
}

/// Text whose parts between backticks are code.
fn marked(text: &str) -> String {
    let part = |(index, part): (usize, &str)| {
        let part = escaped(part);
        if index % 2 == 1 { format!("<code>{part}</code>") } else { part }
    };
    text.split('`').enumerate().map(part).collect()
}

/// An empty answer that leads elsewhere, by `GET`.
pub(super) fn see_other(path: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let location = HeaderValue::try_from(path);
    let location = location.unwrap_or_else(|_| HeaderValue::from_static("/console"));
    response.headers_mut().insert(axum::http::header::LOCATION, location);
    response
}

/// What a refusal means to whoever signs in.
pub(super) fn of_sign_in(error: &AuthError) -> Option<&'static str> {
    match error {
        AuthError::Malformed | AuthError::Unknown | AuthError::WrongSecret | AuthError::Expired => {
            Some("This key is not valid: it is mistyped, revoked or expired.")
        }
        AuthError::Throttled { .. } => {
            Some("Too many wrong keys came from your address. Wait a minute and try again.")
        }
        AuthError::Unavailable(_) | AuthError::Busy => None,
    }
}

/// The violations of a form that was refused, or the error that is not about the form.
pub(super) fn violations(
    error: ConsoleError,
) -> Result<Vec<crate::domain::Violation>, ConsoleError> {
    match error {
        ConsoleError::Api(ApiError::Invalid(violations)) => Ok(violations),
        ConsoleError::Api(ApiError::QuotaReached { what, most }) => {
            let rule =
                format!("the organisation's quota of {most} is used up; an operator can raise it");
            Ok(vec![crate::domain::Violation::new(what, "quota", rule)])
        }
        other => Err(other),
    }
}
