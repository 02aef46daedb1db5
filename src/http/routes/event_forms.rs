//! The forms in which a single event is posted: an envelope, or a `CloudEvent` in either mode.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::{
    CloudEventMode, HEADER_PREFIX, NewEvent, NewEventError, NewEventLimits,
    parse_binary_cloud_event, parse_cloud_event, parse_event,
};
use crate::http::body;
use crate::http::error::ApiError;

/// The header that a `CloudEvent` in binary mode must have.
const CE_SPECVERSION: HeaderName = HeaderName::from_static("ce-specversion");

/// The form of a single event.
#[derive(Debug)]
pub(super) enum EventForm {
    Envelope,
    Structured,
    /// With the headers that hold its attributes.
    Binary(Vec<(HeaderName, HeaderValue)>),
}

impl EventForm {
    /// The form that the headers declare.
    ///
    /// # Errors
    /// When they declare none that is taken.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        match cloud_event_mode(headers) {
            None => body::require_json(headers).map(|()| Self::Envelope),
            Some(CloudEventMode::Structured) => Ok(Self::Structured),
            Some(CloudEventMode::Binary) => {
                let is_its = |name: &HeaderName| {
                    *name == CONTENT_TYPE || name.as_str().starts_with(HEADER_PREFIX)
                };
                let its = headers.iter().filter(|(name, _)| is_its(name));
                Ok(Self::Binary(its.map(|(name, value)| (name.clone(), value.clone())).collect()))
            }
            Some(CloudEventMode::Batch) => {
                let taken = "application/cloudevents+json; batches go to /api/events/batch";
                Err(ApiError::UnsupportedMediaType { taken })
            }
            Some(CloudEventMode::OtherFormat) => {
                let taken = "application/cloudevents+json, or the data's own type with ce- headers";
                Err(ApiError::UnsupportedMediaType { taken })
            }
        }
    }

    /// Parses a body of this form.
    ///
    /// # Errors
    /// See [`NewEventError`].
    pub(super) fn parse<'a>(
        &self,
        body: &'a [u8],
        limits: &NewEventLimits,
    ) -> Result<NewEvent<'a>, NewEventError> {
        match self {
            Self::Envelope => parse_event(body, limits),
            Self::Structured => parse_cloud_event(body, limits),
            Self::Binary(headers) => {
                let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
                parse_binary_cloud_event(headers, body, limits)
            }
        }
    }
}

/// How a request with these headers holds `CloudEvents`; `None` if it holds none.
pub(super) fn cloud_event_mode(headers: &HeaderMap) -> Option<CloudEventMode> {
    let has_version = headers.contains_key(&CE_SPECVERSION);
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // What nearly every client sends.
    if content_type == b"application/json" && !has_version {
        return None;
    }
    CloudEventMode::of(content_type, has_version)
}
