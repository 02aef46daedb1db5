//! `CloudEvents` 1.0: posted events in the format of the CNCF,
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>.
//!
//! An event is posted in structured mode (one JSON object), in binary mode (attributes in `ce-` headers, the data in the
//! body), or in a batch (an array of objects). The payload is the whole `CloudEvent` as a JSON object, byte for byte as
//! it was posted, or put together of its headers and its body: so no attribute and no extension is lost, and it is sent
//! on as it came. `type` and `time` are the event's own, `subject` is its account, and its dedup id is made of `source`
//! and `id`, which together name it (section "id" of the specification).

mod binary;

use std::borrow::Cow;
use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::batch::{self, Parent};
use super::depth::{self, DEPTH_MAX};
use super::envelope::{self, FieldName};
use super::{NewEvent, NewEventError, NewEventLimits, STRAY_FIELDS_MAX, checks, without_bom};
use crate::domain::Violation;

pub use binary::{HEADER_PREFIX, parse_binary_cloud_event};

/// The version that is understood.
const VERSION: &str = "1.0";
/// Bytes of a dedup id at most.
const DEDUP_BYTES_MAX: usize = 255;
/// Attributes of an event at most: enough for every extension, and bounded where they are looked through.
const ATTRIBUTES_MAX: usize = 100;

/// How a request holds `CloudEvents`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloudEventMode {
    /// One, as a JSON object.
    Structured,
    /// One, its attributes in headers.
    Binary,
    /// Some, as a JSON array.
    Batch,
    /// In a format other than JSON.
    OtherFormat,
}

impl CloudEventMode {
    /// The mode of a request with this `Content-Type`, which has the header `ce-specversion` or has not; `None` for one
    /// that holds none. The batch is looked for first, as the protocol binding has it: its name begins like the other.
    pub fn of(content_type: &[u8], has_version: bool) -> Option<Self> {
        const NAME: &[u8] = b"application/cloudevents";
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        let is_named =
            essence.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
        if !is_named {
            return has_version.then_some(Self::Binary);
        }
        let format = essence[NAME.len()..].to_ascii_lowercase();
        Some(match format.as_slice() {
            b"-batch+json" => Self::Batch,
            b"+json" => Self::Structured,
            _ => Self::OtherFormat,
        })
    }
}

/// Parses the body of a request in structured mode.
///
/// # Errors
/// See [`NewEventError`].
pub fn parse_cloud_event<'a>(
    body: &'a [u8],
    limits: &NewEventLimits,
) -> Result<NewEvent<'a>, NewEventError> {
    let raw: &RawValue = serde_json::from_slice(without_bom(body))
        .map_err(|error| NewEventError::malformed(&error))?;
    let mut violations = Vec::new();
    match read(raw, limits, &mut violations) {
        Some(new_event) if violations.is_empty() => Ok(new_event),
        _ => {
            for violation in &mut violations {
                violation.locate("");
            }
            Err(NewEventError::Invalid(violations))
        }
    }
}

/// Parses a batch: an array of objects. All or nothing.
///
/// # Errors
/// See [`NewEventError`]; violations carry the event's index.
pub fn parse_cloud_events<'a>(
    body: &'a [u8],
    limits: &NewEventLimits,
) -> Result<Vec<NewEvent<'a>>, NewEventError> {
    let raws = batch::raw_array(body, limits)?;
    batch::check_each(raws, Vec::new(), limits, Parent::Array, |raw, violations| {
        read(raw, limits, violations)
    })
}

/// Whether a payload is a `CloudEvent`, which is sent on as it is.
pub fn is_cloud_event(payload: &[u8]) -> bool {
    let limits = NewEventLimits { payload_bytes_max: usize::MAX, batch_events_max: 1 };
    payload.trim_ascii_start().starts_with(b"{") && parse_cloud_event(payload, &limits).is_ok()
}

/// The members of an object, as they stand.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CloudEvent")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(FieldName(name)) = map.next_key::<FieldName<'de>>()? {
            let value = map.next_value()?;
            // One more than allowed shows that there are too many.
            if members.len() <= ATTRIBUTES_MAX {
                members.push((name, value));
            }
        }
        Ok(Members(members))
    }
}

/// The attributes that the specification defines, and the data.
#[derive(Default)]
struct Attributes<'a> {
    specversion: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    source: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    subject: Option<&'a RawValue>,
    time: Option<&'a RawValue>,
    datacontenttype: Option<&'a RawValue>,
    dataschema: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    data_base64: Option<&'a RawValue>,
}

/// The new event that an object is, unless it has violations, which are added to `violations`.
fn read<'a>(
    raw: &'a RawValue,
    limits: &NewEventLimits,
    violations: &mut Vec<Violation>,
) -> Option<NewEvent<'a>> {
    let Ok(Members(members)) = serde_json::from_str(raw.get()) else {
        violations.push(Violation::new("", "type", "a CloudEvent must be a JSON object"));
        return None;
    };
    if members.len() > ATTRIBUTES_MAX {
        let rule = format!("a CloudEvent may have at most {ATTRIBUTES_MAX} attributes");
        violations.push(Violation::new("", "length", rule));
        return None;
    }
    let attributes = sorted(members, violations);
    if let Some(version) = required("specversion", attributes.specversion, violations)
        && version != VERSION
    {
        violations.push(Violation::new("specversion", "format", "must be 1.0"));
    }
    let id = required("id", attributes.id, violations);
    let source = required("source", attributes.source, violations).and_then(|source| {
        let is_reference = !source.contains(|char: char| char.is_whitespace() || char.is_control());
        if !is_reference {
            violations.push(Violation::new("source", "format", "must be a URI reference"));
        }
        is_reference.then_some(source)
    });
    let event_type = required("type", attributes.event_type, violations)
        .and_then(|text| checks::event_type("type", text, violations));
    let account_id = optional("subject", attributes.subject, violations)
        .and_then(|text| checks::label("subject", text, violations));
    let occurred_at = optional("time", attributes.time, violations)
        .and_then(|text| checks::timestamp("time", &text, violations));
    optional("datacontenttype", attributes.datacontenttype, violations);
    optional("dataschema", attributes.dataschema, violations);
    check_data(&attributes, violations);
    let payload = raw.get().as_bytes();
    if payload.len() > limits.payload_bytes_max {
        violations.push(too_large(limits));
    } else if depth::nests_too_deep(payload) {
        let rule = format!("must nest at most {DEPTH_MAX} levels of arrays and objects");
        violations.push(Violation::new("data", "too_deep", rule));
    }
    let dedup_id = Some(Cow::Owned(dedup_id(&source?, &id?)));
    let (event_type, payload) = (event_type?, Cow::Borrowed(payload));
    Some(NewEvent { event_type, payload, dedup_id, account_id, user_id: None, occurred_at })
}

/// The members by their names. Extensions are checked and stay in the payload.
fn sorted<'a>(
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
    violations: &mut Vec<Violation>,
) -> Attributes<'a> {
    let mut found = Attributes::default();
    let before = violations.len();
    let mut extensions: Vec<Cow<'a, str>> = Vec::new();
    for (name, value) in members {
        let slot = match &*name {
            "specversion" => &mut found.specversion,
            "id" => &mut found.id,
            "source" => &mut found.source,
            "type" => &mut found.event_type,
            "subject" => &mut found.subject,
            "time" => &mut found.time,
            "datacontenttype" => &mut found.datacontenttype,
            "dataschema" => &mut found.dataschema,
            "data" => &mut found.data,
            "data_base64" => &mut found.data_base64,
            _ => {
                let fault = extension_fault(&name, value, &extensions);
                if let Some(fault) = fault.filter(|_| violations.len() < before + STRAY_FIELDS_MAX)
                {
                    violations.push(fault);
                }
                extensions.push(name);
                continue;
            }
        };
        if slot.replace(value).is_some() && violations.len() < before + STRAY_FIELDS_MAX {
            violations.push(Violation::new(&*name, "repeated", "must not be given twice"));
        }
    }
    found
}

/// What is wrong with an extension attribute: its name, or its value.
fn extension_fault(name: &str, value: &RawValue, earlier: &[Cow<'_, str>]) -> Option<Violation> {
    let shown: String = name.chars().take(64).collect();
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.is_empty() || !name.bytes().all(is_name) {
        let rule = "is not an attribute: their names have lower-case letters and digits only";
        return Some(Violation::new(shown, "unknown", rule));
    }
    if earlier.iter().any(|earlier| earlier == name) {
        return Some(Violation::new(shown, "repeated", "must not be given twice"));
    }
    let is_simple = !value.get().starts_with(['{', '[']);
    (!is_simple).then(|| Violation::new(shown, "type", "must be a string, a number, true or false"))
}

/// The text of an attribute that must be there.
fn required<'a>(
    name: &'static str,
    raw: Option<&'a RawValue>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    if envelope::given(raw).is_none() {
        violations.push(Violation::new(name, "required", "is required of a CloudEvent"));
        return None;
    }
    optional(name, raw, violations)
}

/// The text of an attribute. `null` means that it is not there, as the JSON event format has it.
fn optional<'a>(
    name: &'static str,
    raw: Option<&'a RawValue>,
    violations: &mut Vec<Violation>,
) -> Option<Cow<'a, str>> {
    let text = envelope::string(name, envelope::given(raw)?, violations)?;
    if text.is_empty() {
        violations.push(Violation::new(name, "length", "must not be empty"));
        return None;
    }
    Some(text)
}

fn check_data(attributes: &Attributes<'_>, violations: &mut Vec<Violation>) {
    let Some(encoded) = envelope::given(attributes.data_base64) else { return };
    if attributes.data.is_some() {
        let rule = "must not be given beside data";
        violations.push(Violation::new("data_base64", "repeated", rule));
    }
    let encoded = envelope::string("data_base64", encoded, violations);
    if encoded.is_some_and(|text| STANDARD.decode(&*text).is_err()) {
        violations.push(Violation::new("data_base64", "format", "must be base64"));
    }
}

fn too_large(limits: &NewEventLimits) -> Violation {
    let rule = format!("must be at most {} bytes", limits.payload_bytes_max);
    Violation::new("data", "too_large", rule)
}

/// What names an event among those of its organisation: its source and its id, which no source gives twice. A source has
/// no space, so the two cannot be mistaken for others.
fn dedup_id(source: &str, id: &str) -> String {
    let name = format!("{source} {id}");
    if name.len() <= DEDUP_BYTES_MAX && !name.contains(char::is_control) {
        return name;
    }
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(&name) {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
