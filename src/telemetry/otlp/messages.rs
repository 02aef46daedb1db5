//! The messages of OTLP 1.x that are sent, with the field numbers of
//! <https://github.com/open-telemetry/opentelemetry-proto>.

use prost::{Enumeration, Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct TracesData {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<ScopeMessage>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LogsData {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<ScopeMessage>,
    #[prost(message, repeated, tag = "2")]
    pub(super) log_records: Vec<LogRecord>,
}

/// The service that sends.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

/// The library that made spans or lines: always this program.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeMessage {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Scalar", tags = "1, 2, 3, 4")]
    pub(super) value: Option<Scalar>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Scalar {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(int64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Float(f64),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    /// Empty for a span without a parent.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(enumeration = "KindMessage", tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    pub(super) links: Vec<LinkMessage>,
    #[prost(uint32, tag = "14")]
    pub(super) dropped_links_count: u32,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<SpanStatus>,
    /// The trace flags of W3C Trace Context in the lowest byte.
    #[prost(fixed32, tag = "16")]
    pub(super) flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum KindMessage {
    Unspecified = 0,
    Internal = 1,
    Server = 2,
    Client = 3,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LinkMessage {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(fixed32, tag = "6")]
    pub(super) flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SpanStatus {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    /// 2 for an error; other codes are not sent.
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LogRecord {
    #[prost(fixed64, tag = "1")]
    pub(super) time_unix_nano: u64,
    /// 1 for trace, 5 for debug, 9 for info, 13 for warn, 17 for error.
    #[prost(int32, tag = "2")]
    pub(super) severity_number: i32,
    #[prost(string, tag = "3")]
    pub(super) severity_text: String,
    #[prost(message, optional, tag = "5")]
    pub(super) body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    pub(super) attributes: Vec<KeyValue>,
    /// Empty for a line without a trace.
    #[prost(bytes = "vec", tag = "9")]
    pub(super) trace_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    pub(super) observed_time_unix_nano: u64,
}

/// Most bytes of a text in an attribute or of a log message.
const TEXT_BYTES_MAX: usize = 2 * 1024;

impl KeyValue {
    pub(super) fn new(key: &str, value: impl Into<Scalar>) -> Self {
        Self { key: key.to_owned(), value: Some(AnyValue::from(value.into())) }
    }
}

impl From<Scalar> for AnyValue {
    fn from(value: Scalar) -> Self {
        Self { value: Some(value) }
    }
}

impl From<String> for Scalar {
    /// What is beyond the bound is cut off.
    fn from(mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        Self::Text(text)
    }
}

impl From<&str> for Scalar {
    fn from(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned())
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Scalar {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<f64> for Scalar {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

    use super::*;

    /// Bytes of a message with every field set, and those of the same with the official types.
    fn reencoded<Official: Message + Default>(sent: &impl Message) -> (Vec<u8>, Vec<u8>) {
        let bytes = sent.encode_to_vec();
        let official = Official::decode(&bytes[..]).unwrap();
        (bytes, official.encode_to_vec())
    }

    fn values() -> Vec<KeyValue> {
        vec![
            KeyValue::new("text", "a"),
            KeyValue::new("bool", true),
            KeyValue::new("int", -7),
            KeyValue::new("float", 1.5),
        ]
    }

    #[test]
    fn official_types_read_every_field_and_write_the_same_bytes() {
        let resource = Some(Resource { attributes: values() });
        let scope = Some(ScopeMessage { name: "n".to_owned(), version: "v".to_owned() });
        let span = SpanMessage {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            parent_span_id: vec![3; 8],
            name: "name".to_owned(),
            kind: KindMessage::Client.into(),
            start_time_unix_nano: 4,
            end_time_unix_nano: 5,
            attributes: values(),
            links: vec![LinkMessage { trace_id: vec![6; 16], span_id: vec![7; 8], flags: 1 }],
            dropped_links_count: 8,
            status: Some(SpanStatus { message: "m".to_owned(), code: 2 }),
            flags: 1,
        };
        let scope_spans = vec![ScopeSpans { scope: scope.clone(), spans: vec![span] }];
        let traces = TracesData {
            resource_spans: vec![ResourceSpans { resource: resource.clone(), scope_spans }],
        };
        let (sent, again) = reencoded::<ExportTraceServiceRequest>(&traces);
        assert_eq!(sent, again);
        let line = LogRecord {
            time_unix_nano: 1,
            severity_number: 9,
            severity_text: "INFO".to_owned(),
            body: Some(Scalar::from("body").into()),
            attributes: values(),
            trace_id: vec![1; 16],
            observed_time_unix_nano: 2,
        };
        let scope_logs = vec![ScopeLogs { scope, log_records: vec![line] }];
        let logs = LogsData { resource_logs: vec![ResourceLogs { resource, scope_logs }] };
        let (sent, again) = reencoded::<ExportLogsServiceRequest>(&logs);
        assert_eq!(sent, again);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = "ü".repeat(TEXT_BYTES_MAX);
        for value in [Scalar::from(&*text), Scalar::from(format!("a{text}"))] {
            let Scalar::Text(text) = value else { panic!("{value:?}") };
            assert!(text.len() <= TEXT_BYTES_MAX && text.len() >= TEXT_BYTES_MAX - 1);
        }
    }
}
