//! Custom headers: headers that an endpoint's owner adds to its webhooks.

use std::collections::BTreeMap;
use std::fmt;

use super::Violation;

/// Header names, in lower case, with their values. Values can be secrets (`authorization` is one), so they are
/// redacted in `Debug`; [`Self::reveal`] shows them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct CustomHeaders(BTreeMap<String, String>);

/// The text is not a list of custom headers.
#[derive(Debug, thiserror::Error)]
#[error("is not a list of headers")]
pub struct CustomHeadersError;

/// Headers that Hookgate sets, that frame the message or belong to the connection (RFC 9110 sections 6 and 7,
/// RFC 9112), or whose semantics Hookgate does not support.
const RESERVED: [&str; 15] = [
    "accept-encoding",
    "connection",
    "date",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "range",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
/// Prefixes of reserved names.
const RESERVED_PREFIXES: [&str; 3] = ["webhook-", "content-", "proxy-"];
/// Maximum characters of a name in an error.
const NAME_CHARS_SHOWN: usize = 64;

impl CustomHeaders {
    /// Maximum headers.
    pub const FIELDS_MAX: usize = 16;
    /// Maximum bytes of a name.
    pub const NAME_BYTES_MAX: usize = 64;
    /// Maximum bytes of a value.
    pub const VALUE_BYTES_MAX: usize = 1024;
    /// Maximum bytes of all names and values together: half of what most servers accept.
    pub const BYTES_MAX: usize = 4096;

    /// Parses names and values.
    ///
    /// # Errors
    /// Every violation, each with the field `headers.<name>`.
    pub fn parse<'a>(
        fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<Violation>> {
        let (mut accepted, mut broken) = (BTreeMap::new(), Vec::new());
        for (name, value) in fields {
            let lower = name.to_ascii_lowercase();
            match check(name, &lower, value) {
                Err(violation) => broken.push(violation),
                Ok(()) if value == Self::MASK => {
                    let rule = "must not be the mask that readers are shown; leave headers out, or give the value";
                    broken.push(violation(name, "masked", rule));
                }
                Ok(()) if accepted.contains_key(&lower) => {
                    broken.push(violation(name, "repeated", "must not be given twice"));
                }
                Ok(()) => {
                    accepted.insert(lower, value.to_owned());
                }
            }
        }
        let headers = Self(accepted);
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.0.len() > Self::FIELDS_MAX {
            broken.push(Violation::new("headers", "length", "must be at most 16 fields"));
        } else if bytes > Self::BYTES_MAX {
            let rule = "must be at most 4096 bytes in all names and values together";
            broken.push(Violation::new("headers", "length", rule));
        }
        if broken.is_empty() { Ok(headers) } else { Err(broken) }
    }

    /// What is shown in place of a value.
    pub const MASK: &str = "***";

    /// Parses what [`Self::reveal`] returned.
    ///
    /// # Errors
    /// When the text is something else.
    pub fn from_text(text: &str) -> Result<Self, CustomHeadersError> {
        serde_json::from_str(text).map(Self).map_err(|_| CustomHeadersError)
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names, in lower case and sorted, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The headers as a JSON object, for the store.
    pub fn reveal(&self) -> String {
        serde_json::json!(self.0).to_string()
    }
}

fn check(name: &str, lower: &str, value: &str) -> Result<(), Violation> {
    let broken = |code, rule| Err(violation(name, code, rule));
    if name.is_empty() || name.len() > CustomHeaders::NAME_BYTES_MAX {
        return broken("length", "must have a name of 1 to 64 bytes");
    }
    if !name.bytes().all(is_token_byte) {
        return broken("format", "must have a name of letters, digits and !#$%&'*+-.^_`|~");
    }
    if RESERVED.contains(&lower) || RESERVED_PREFIXES.iter().any(|p| lower.starts_with(p)) {
        return broken("reserved", "is a field that Hookgate or the connection sets");
    }
    if value.len() > CustomHeaders::VALUE_BYTES_MAX {
        return broken("length", "must have a value of at most 1024 bytes");
    }
    let is_visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if !value.bytes().all(is_visible) || value.trim() != value {
        let rule = "must have a value of visible ASCII characters, with spaces only in between";
        return broken("format", rule);
    }
    Ok(())
}

/// RFC 9110 section 5.6.2.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn violation(name: &str, code: &'static str, rule: &str) -> Violation {
    let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
    Violation::new(format!("headers.{shown}"), code, rule)
}

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, "…"))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &str, value: &str) -> Option<(String, &'static str)> {
        let broken = CustomHeaders::parse([(name, value)]).err()?;
        assert_eq!(broken.len(), 1);
        Some((broken[0].field.clone(), broken[0].code))
    }

    #[test]
    fn headers_set_by_hookgate_or_the_connection_are_reserved() {
        let reserved = RESERVED.into_iter();
        let families = ["Webhook-Signature", "webhook-x", "Content-Type", "content-length"];
        for name in reserved.chain(families).chain(["Proxy-Authorization", "Host", "TE"]) {
            assert_eq!(code(name, "x"), Some((format!("headers.{name}"), "reserved")));
        }
        for name in ["Authorization", "x-webhook-signature", "cookie", "X_A.b", "host-name"] {
            assert_eq!(code(name, "x"), None, "{name}");
        }
    }

    #[test]
    fn mask_of_a_value_is_not_taken_for_one() {
        assert_eq!(code("x-a", CustomHeaders::MASK), Some(("headers.x-a".to_owned(), "masked")));
    }

    #[test]
    fn names_and_values_must_be_valid_http() {
        for name in ["", "a b", "a:", "ä", "a\r\nb", &"x".repeat(65)] {
            assert!(code(name, "x").is_some(), "{name:?}");
        }
        for value in ["a\r\nhost: x", "a\0", "ä", " a", "a ", "\ta", &"x".repeat(1025)] {
            assert!(code("x-a", value).is_some(), "{value:?}");
        }
        for value in ["", "Bearer a b", &"x".repeat(1024)] {
            assert_eq!(code("x-a", value), None, "{value:?}");
        }
    }

    #[test]
    fn number_and_size_are_bounded_and_every_violation_is_named() {
        let names: Vec<String> = (0..17).map(|number| format!("x-{number}")).collect();
        let fields = |count: usize, value| names[..count].iter().map(move |n| (n.as_str(), value));
        let long = "x".repeat(1000);
        assert!(CustomHeaders::parse(fields(16, "")).is_ok());
        assert_eq!(CustomHeaders::parse(fields(17, "")).unwrap_err()[0].field, "headers");
        assert!(CustomHeaders::parse(fields(4, &long)).is_ok());
        assert_eq!(CustomHeaders::parse(fields(5, &long)).unwrap_err()[0].code, "length");
        let faults = CustomHeaders::parse([("X-A", "1"), ("x-a", "2"), ("host", "3")]).unwrap_err();
        let faults: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.code)).collect();
        assert_eq!(faults, [("headers.x-a", "repeated"), ("headers.host", "reserved")]);
    }

    #[test]
    fn values_survive_a_round_trip_and_are_hidden_in_debug() {
        let headers =
            CustomHeaders::parse([("Authorization", "Bearer s3cret"), ("x-a", "")]).unwrap();
        assert_eq!(CustomHeaders::from_text(&headers.reveal()).unwrap(), headers);
        assert_eq!(format!("{headers:?}"), r#"{"authorization": "…", "x-a": "…"}"#);
        assert!(CustomHeaders::from_text("[]").is_err());
    }
}
