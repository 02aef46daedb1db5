//! How a webhook is shown: a line and its body for people, or one JSON object in a line for programs.
//!
//! Whoever sends a webhook chooses its bytes, so no control character of it reaches a terminal.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::forward::Forwarded;
use super::webhook::{Signature, Webhook};
use crate::cli::output::Output;

/// A webhook that was answered.
pub(super) struct Shown<'a> {
    pub(super) webhook: &'a Webhook,
    /// Which attempt of its event this is, from 1.
    pub(super) attempt: u64,
    pub(super) signature: &'a Signature,
    /// What it was answered with.
    pub(super) status: StatusCode,
    /// The time from its arrival to the answer.
    pub(super) duration: Duration,
    pub(super) forwarded: Option<&'a Forwarded>,
}

/// The same for programs.
#[derive(Serialize)]
struct Line<'a> {
    received_at: String,
    webhook_id: Option<&'a str>,
    r#type: Option<String>,
    attempt: u64,
    signature: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_error: Option<&'a str>,
    status: u16,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<&'a Forwarded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Map<String, Value>>,
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Json(&'a RawValue),
    Text(String),
}

impl Shown<'_> {
    /// The text to print.
    pub(super) fn render(&self, output: Output, with_headers: bool) -> String {
        match output {
            Output::Text => self.text(with_headers),
            Output::Json => self.json(with_headers),
        }
    }

    fn text(&self, with_headers: bool) -> String {
        let Self { webhook, attempt, status, .. } = self;
        let signature = match self.signature {
            Signature::Unchecked => "signature not checked; set --secret".to_owned(),
            Signature::Valid => "signature valid".to_owned(),
            Signature::Invalid(why) => format!("SIGNATURE INVALID: {why}"),
        };
        let mut text = format!(
            "{}  {}  {}  attempt {attempt}  {}  {:.1} ms  {signature}\n",
            webhook.received_at,
            printable(&webhook.event_type().unwrap_or_else(|| "no type".to_owned())),
            printable(webhook.id().unwrap_or("no webhook-id")),
            status.as_u16(),
            milliseconds(self.duration),
        );
        if with_headers {
            for (name, value) in &webhook.headers {
                let value = String::from_utf8_lossy(value.as_bytes());
                text += &format!("{name}: {}\n", printable(&value));
            }
            text.push('\n');
        }
        text += &match json(&webhook.body) {
            Some(json) => printable(&indented(json.get())),
            None => printable(&String::from_utf8_lossy(&webhook.body)),
        };
        if let Some(forwarded) = self.forwarded {
            text += &format!("\n{}", printable(&forwarded.to_string()));
        }
        text
    }

    fn json(&self, with_headers: bool) -> String {
        let Self { webhook, attempt, status, .. } = *self;
        let (signature, signature_error) = match self.signature {
            Signature::Unchecked => ("unchecked", None),
            Signature::Valid => ("valid", None),
            Signature::Invalid(why) => ("invalid", Some(why.as_str())),
        };
        let line = Line {
            received_at: webhook.received_at.to_string(),
            webhook_id: webhook.id(),
            r#type: webhook.event_type(),
            attempt,
            signature,
            signature_error,
            status: status.as_u16(),
            duration_ms: milliseconds(self.duration),
            forwarded: self.forwarded,
            headers: with_headers.then(|| header_map(&webhook.headers)),
            body: json(&webhook.body).map_or_else(
                || Body::Text(String::from_utf8_lossy(&webhook.body).into_owned()),
                Body::Json,
            ),
        };
        let line = serde_json::to_string(&line).unwrap_or_else(|error| error.to_string());
        // JSON may have line breaks between its values; every webhook is one line.
        line.replace(['\n', '\r'], " ")
    }
}

fn json(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(body).ok()
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

fn header_map(headers: &HeaderMap) -> Map<String, Value> {
    let text = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
    };
    headers.keys().map(|name| (name.to_string(), text(name).into())).collect()
}

/// The text without what a terminal would obey: control characters other than line breaks, and those that change the
/// direction of text, as escapes.
pub(super) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for character in text.chars() {
        let turns_text = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (character.is_control() && character != '\n') || turns_text {
            printed.extend(character.escape_unicode());
        } else {
            printed.push(character);
        }
    }
    printed
}

/// Valid JSON with one value in a line, every value byte for byte as it was: numbers keep their digits, objects the
/// order of their fields.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let mut all = json.chars().peekable();
    while let Some(character) = all.next() {
        if in_string {
            text.push(character);
            in_string = is_escaped || character != '"';
            is_escaped = character == '\\' && !is_escaped;
            continue;
        }
        match character {
            _ if character.is_ascii_whitespace() => {}
            '{' | '[' => {
                text.push(character);
                while all.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = all.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    break_line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                break_line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(character);
                break_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                in_string = character == '"';
                text.push(character);
            }
        }
    }
    text
}

fn break_line(text: &mut String, depth: usize) {
    text.push('\n');
    // A hostile depth is not indented further than a screen is wide.
    text.extend(std::iter::repeat_n("  ", depth.min(40)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_its_values_are_kept() {
        let json = r#"{"b":1.50,"a":[ ],"c":{"text":"a, {b} \"c\" \\"},"d":[1,{"e":null}]}"#;
        let text = "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": {\n    \"text\": \"a, {b} \\\"c\\\" \\\\\"\n  },\n  \
                    \"d\": [\n    1,\n    {\n      \"e\": null\n    }\n  ]\n}";
        assert_eq!(indented(json), text);
    }

    #[test]
    fn terminal_obeys_nothing() {
        assert_eq!(printable("a\u{1b}[2Jb\n\u{9b}c\u{202e}"), "a\\u{1b}[2Jb\n\\u{9b}c\\u{202e}");
    }
}
