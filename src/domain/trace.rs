//! Trace ids: the 16 bytes of W3C Trace Context, and the text that a caller without it traces its requests by.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{EventId, SpanId, Timestamp};

/// A trace id: 16 bytes, never all zero, <https://www.w3.org/TR/trace-context/#trace-id>. It is written as 32 lower-case
/// hexadecimal digits, or as its caller wrote it where that was another text.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TraceId {
    bytes: [u8; 16],
    /// The caller's text, if it is not the digits of `bytes`.
    text: Option<Arc<str>>,
}

/// Selects what belongs to one trace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TraceFilter {
    /// By the 16 bytes, whatever text its caller gave.
    Id(TraceId),
    /// By the caller's own text.
    Text(String),
}

/// The text is not a trace id.
#[derive(Debug, thiserror::Error)]
#[error("must be 32 hexadecimal digits, not all zero")]
pub struct TraceIdError;

impl TraceId {
    /// Maximum bytes of a caller's own text.
    pub const TEXT_BYTES_MAX: usize = 128;

    /// How long before its event is accepted an id may be minted that is looked up by its time.
    const MINTED_BEFORE_MAX: Duration = Duration::from_millis(100);
    /// How long after: the clock may be set back.
    const MINTED_AFTER_MAX: Duration = Duration::from_millis(10);

    /// A new random trace id.
    pub fn mint() -> Self {
        Self::from_bytes(*Uuid::new_v4().as_bytes())
    }

    /// A new trace id that begins with the time, to the millisecond, as a UUIDv7 does. The store needs no index to
    /// find an event by it.
    pub fn mint_at(at: Timestamp) -> Self {
        Self::from_bytes(*EventId::mint(at).uuid().as_bytes())
    }

    /// The times at which an event was accepted for which this id was minted, the first and the last one; `None` for
    /// an id that [`Self::mint_at`] did not mint.
    pub fn accepted_within(&self) -> Option<(Timestamp, Timestamp)> {
        let minted_at = EventId::from_uuid(Uuid::from_bytes(self.bytes)).minted_at()?;
        Some((minted_at.minus(Self::MINTED_AFTER_MAX), minted_at.plus(Self::MINTED_BEFORE_MAX)))
    }

    /// Whether this id was minted for an event that was accepted at this time.
    pub fn is_minted_for(&self, received_at: Timestamp) -> bool {
        self.accepted_within().is_some_and(|(first, last)| (first..=last).contains(&received_at))
    }

    /// Wraps the bytes that the journal and the store keep.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self { bytes, text: None }
    }

    /// The bytes and the text that the journal and the store keep. A text that no caller can have given is dropped.
    pub fn from_parts(bytes: [u8; 16], text: Option<&str>) -> Self {
        Self { bytes, text: text.filter(|text| is_text(text)).map(Arc::from) }
    }

    /// The trace id of an `x-trace-id` header: 1 to 128 visible ASCII characters. Its bytes are those of the text if it
    /// is a UUID or 32 hexadecimal digits, or else those of `parent`, which came beside it, or else derived from the text,
    /// so that the same text leads to the same bytes.
    ///
    /// # Errors
    /// When the text is empty or too long, or has other characters.
    pub fn from_header(text: &str, parent: Option<Self>) -> Result<Self, TraceIdError> {
        if let Ok(digits) = text.parse::<Self>()
            && digits.to_string() == text
        {
            return Ok(digits);
        }
        if !is_text(text) {
            return Err(TraceIdError);
        }
        let own = Uuid::try_parse(text).ok().filter(|uuid| !uuid.is_nil()).map(Uuid::into_bytes);
        let bytes = own.or(parent.map(|parent| parent.bytes)).unwrap_or_else(|| derived(text));
        Ok(Self { bytes, text: Some(text.into()) })
    }

    /// The bytes, for the journal and the store.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.bytes
    }

    /// The caller's text, if it is not the digits of the bytes.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// The trace id of a `traceparent` header: `00-<trace id>-<parent id>-<flags>`.
    ///
    /// # Errors
    /// When the header does not have the format of version 00. The caller then generates an id, as the
    /// recommendation requires.
    pub fn from_traceparent(header: &str) -> Result<Self, TraceIdError> {
        let mut parts = header.split('-');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(version), Some(trace), Some(parent), Some(flags))
                if version.len() == 2
                    && version != "ff"
                    && parent.len() == 16
                    && flags.len() == 2 =>
            {
                trace.parse()
            }
            _ => Err(TraceIdError),
        }
    }

    /// A `traceparent` for a request that this span of the trace sends. The sampled flag is set.
    pub fn traceparent(&self, span: SpanId) -> String {
        let trace = u128::from_be_bytes(self.bytes);
        format!("00-{trace:032x}-{span}-01")
    }
}

/// Whether a text is one that a header can carry and a log line show.
fn is_text(text: &str) -> bool {
    (1..=TraceId::TEXT_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn derived(text: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(text)[..16]);
    // All zero is no trace id.
    bytes[0] |= 1;
    bytes
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => f.write_str(text),
            None => write!(f, "{:032x}", u128::from_be_bytes(self.bytes)),
        }
    }
}

/// 32 digits or a UUID are an id, and any other visible text that of a caller.
impl FromStr for TraceFilter {
    type Err = TraceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match Uuid::try_parse(text) {
            Ok(id) if !id.is_nil() => Ok(Self::Id(TraceId::from_bytes(id.into_bytes()))),
            _ if is_text(text) => Ok(Self::Text(text.to_owned())),
            _ => Err(TraceIdError),
        }
    }
}

/// Parses the 32 digits.
impl FromStr for TraceId {
    type Err = TraceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TraceIdError);
        }
        match u128::from_str_radix(text, 16) {
            Ok(0) | Err(_) => Err(TraceIdError),
            Ok(id) => Ok(Self::from_bytes(id.to_be_bytes())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn traceparent_survives_a_round_trip() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = TraceId::from_traceparent(header).unwrap();
        assert_eq!(trace.to_string(), ID);
        assert_eq!(TraceId::from_traceparent(&trace.traceparent(SpanId::mint())).unwrap(), trace);
    }

    #[test]
    fn malformed_and_zero_ids_are_refused() {
        for text in ["", "0", &"0".repeat(32), &"g".repeat(32), &"a".repeat(33)] {
            assert!(text.parse::<TraceId>().is_err(), "{text}");
        }
        assert!(TraceId::from_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736").is_err());
    }

    #[test]
    fn visible_text_is_kept_as_it_is_and_always_leads_to_the_same_bytes() {
        let long = "x".repeat(128);
        let dashed = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
        for text in
            ["a", "demo-123", "{\"a\"}", ID, dashed, &ID.to_uppercase(), &long, &"0".repeat(32)]
        {
            let trace = TraceId::from_header(text, None).unwrap();
            assert_eq!(trace.to_string(), text);
            assert_eq!(trace.text().is_none(), text == ID);
            assert_eq!(TraceId::from_header(text, None).unwrap(), trace);
            assert_eq!(TraceId::from_parts(*trace.bytes(), trace.text()), trace);
            assert!(
                TraceId::from_traceparent(&trace.traceparent(SpanId::mint())).is_ok(),
                "{text}"
            );
        }
        let bytes = |text: &str| *TraceId::from_header(text, None).unwrap().bytes();
        assert_eq!(bytes(dashed), bytes(ID));
        assert_eq!(bytes(&ID.to_uppercase()), bytes(ID));
        assert_ne!(bytes("a"), bytes("b"));
        for text in ["", "a b", "ü", "a\t", &"x".repeat(129)] {
            assert!(TraceId::from_header(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn minted_id_tells_when_its_event_was_accepted() {
        let at = |micros: i64| Timestamp::from_micros(1_700_000_000_000_000 + micros);
        let trace = TraceId::mint_at(at(999));
        assert!(trace.is_minted_for(at(999)) && trace.is_minted_for(at(100_000)));
        assert!(!trace.is_minted_for(at(100_001)) && !trace.is_minted_for(at(-10_001)));
        assert_ne!(trace, TraceId::mint_at(at(999)));
        assert_eq!(ID.parse::<TraceId>().unwrap().accepted_within(), None);
    }

    #[test]
    fn trace_is_looked_for_by_its_id_or_by_its_text() {
        let id = TraceFilter::Id(ID.parse().unwrap());
        let dashed = "4bf92f35-77b3-4da6-a3ce-929d0e0e4736";
        for text in [ID, &ID.to_uppercase(), dashed] {
            assert_eq!(text.parse::<TraceFilter>().unwrap(), id);
        }
        for text in ["demo-123", &"0".repeat(32)] {
            assert_eq!(text.parse::<TraceFilter>().unwrap(), TraceFilter::Text(text.to_owned()));
        }
        assert!("".parse::<TraceFilter>().is_err() && "a b".parse::<TraceFilter>().is_err());
    }

    #[test]
    fn parent_beside_a_text_gives_the_bytes() {
        let parent: TraceId = ID.parse().unwrap();
        let trace = TraceId::from_header("demo-123", Some(parent.clone())).unwrap();
        assert_eq!((trace.bytes(), trace.text()), (parent.bytes(), Some("demo-123")));
        let other = "1".repeat(32);
        assert_eq!(TraceId::from_header(&other, Some(parent)).unwrap().to_string(), other);
    }
}
