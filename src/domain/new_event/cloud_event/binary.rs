//! Binary mode: the attributes of a `CloudEvent` in headers, its data in the body,
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>, section 3.1.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{read, too_large};
use crate::domain::new_event::{NewEvent, NewEventError, NewEventLimits, without_bom};
use crate::domain::{MediaType, Violation};

/// The beginning of the names of headers that hold attributes.
pub const HEADER_PREFIX: &str = "ce-";

/// Makes an event of the headers and the body of a request in binary mode. Header names must be in lower case.
///
/// # Errors
/// See [`NewEventError`]; violations name the headers.
pub fn parse_binary_cloud_event<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
    limits: &NewEventLimits,
) -> Result<NewEvent<'static>, NewEventError> {
    let mut violations = Vec::new();
    let mut json = String::from("{");
    let mut content_type = None;
    for (name, value) in headers {
        if name == "content-type" {
            content_type.get_or_insert(value);
        } else if let Some(attribute) = name.strip_prefix(HEADER_PREFIX) {
            match decoded(value) {
                // What the body and its type hold.
                _ if ["data", "data_base64", "datacontenttype"].contains(&attribute) => {
                    let rule = "is not a header: the body is the data, Content-Type its type";
                    violations.push(Violation::new(name, "unknown", rule));
                }
                Some(text) => push(&mut json, attribute, &Value::from(text)),
                None => violations.push(Violation::new(name, "format", "must be UTF-8")),
            }
        }
    }
    if body.len() > limits.payload_bytes_max {
        violations.push(too_large(limits));
    }
    if let Some(text) = content_type.map(String::from_utf8_lossy) {
        push(&mut json, "datacontenttype", &Value::from(text));
    }
    push_data(&mut json, content_type, body)?;
    json.push('}');
    let raw = RawValue::from_string(json).map_err(|error| NewEventError::malformed(&error))?;
    // Encoded as base64, the data may have more bytes than it had in the body.
    let unbounded = NewEventLimits { payload_bytes_max: usize::MAX, ..*limits };
    let before = violations.len();
    let new_event = read(&raw, &unbounded, &mut violations).map(NewEvent::into_owned);
    for violation in &mut violations[before..] {
        if violation.field != "data" {
            violation.field = format!("{HEADER_PREFIX}{}", violation.field);
        }
    }
    match new_event {
        Some(new_event) if violations.is_empty() => Ok(new_event),
        _ => Err(NewEventError::Invalid(violations)),
    }
}

/// Adds a member to the text of an object.
fn push(json: &mut String, name: &str, value: &Value) {
    if json.len() > 1 {
        json.push(',');
    }
    // Writing to a string does not fail.
    let _ = write!(json, "{}:{value}", Value::from(name));
}

/// Adds the data: JSON as it is, anything else in base64. An empty body is no data.
fn push_data(
    json: &mut String,
    content_type: Option<&[u8]>,
    body: &[u8],
) -> Result<(), NewEventError> {
    if body.is_empty() {
        return Ok(());
    }
    let is_json = content_type.is_none_or(|text| MediaType::of(text) == MediaType::Json);
    match serde_json::from_slice::<&RawValue>(without_bom(body)) {
        Ok(raw) if is_json => {
            json.push_str(if json.len() > 1 { ",\"data\":" } else { "\"data\":" });
            json.push_str(raw.get());
        }
        Err(error) if is_json && content_type.is_some() => {
            return Err(NewEventError::malformed(&error));
        }
        Ok(_) | Err(_) => push(json, "data_base64", &Value::from(STANDARD.encode(body))),
    }
    Ok(())
}

/// The text in a header: unquoted if it is a quoted string, then percent-decoded, as the HTTP protocol binding says in
/// section 3.1.3.2.
fn decoded(value: &[u8]) -> Option<String> {
    let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    let unquoted: Cow<'_, [u8]> = match inner {
        None => Cow::Borrowed(value),
        Some(inner) => {
            let mut bytes = Vec::with_capacity(inner.len());
            let mut is_escaped = false;
            for byte in inner {
                is_escaped = *byte == b'\\' && !is_escaped;
                if !is_escaped {
                    bytes.push(*byte);
                }
            }
            Cow::Owned(bytes)
        }
    };
    let decoded = percent_encoding::percent_decode(&unquoted).decode_utf8().ok()?;
    Some(decoded.into_owned())
}
