//! An OpenTelemetry collector: a real server that takes OTLP/HTTP and decodes it with the official types.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::wait::until;

/// What it does with an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    /// It takes it.
    Takes,
    /// It answers 503 to it.
    Refuses,
    /// It never answers.
    Hangs,
}

/// A collector, there until it is dropped.
pub(crate) struct Collector {
    origin: String,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    mood: Mutex<Mood>,
    taken: Mutex<Taken>,
}

/// What came so far.
#[derive(Clone, Default)]
pub(crate) struct Taken {
    pub(crate) requests: usize,
    /// The header fields of the last request that was taken.
    pub(crate) headers: HeaderMap,
    pub(crate) spans: Vec<TakenSpan>,
    pub(crate) lines: Vec<TakenLine>,
    /// Attributes of the service.
    pub(crate) resource: BTreeMap<String, String>,
}

/// A span; ids are hexadecimal digits.
#[derive(Clone, Debug)]
pub(crate) struct TakenSpan {
    pub(crate) trace_id: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    /// 1 for internal, 2 for server, 3 for client.
    pub(crate) kind: i32,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Trace and span of each link.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) is_error: bool,
    pub(crate) started_before_it_ended: bool,
}

/// A log line.
#[derive(Clone, Debug)]
pub(crate) struct TakenLine {
    pub(crate) trace_id: String,
    pub(crate) severity: String,
    pub(crate) body: String,
    pub(crate) attributes: BTreeMap<String, String>,
}

impl Collector {
    /// Starts on a port that is free.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { mood: Mutex::new(Mood::Takes), taken: Mutex::default() });
        let app = Router::new().fallback(take).with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { origin, shared, _server: server }
    }

    /// The value of `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.origin
    }

    /// Treats what comes from now on so.
    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    /// What came so far.
    pub(crate) fn taken(&self) -> Taken {
        self.shared.taken.lock().unwrap().clone()
    }

    /// Waits until so many spans came, and returns all that have.
    pub(crate) async fn spans(&self, count: usize) -> Vec<TakenSpan> {
        until(&format!("{count} spans"), async || self.taken().spans.len() >= count).await;
        self.taken().spans
    }

    /// Waits for a line with this body.
    pub(crate) async fn line(&self, body: &str) -> TakenLine {
        let find = || self.taken().lines.into_iter().find(|line| line.body == body);
        until(body, async || find().is_some()).await;
        find().unwrap()
    }
}

async fn take(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let mood = *shared.mood.lock().unwrap();
    shared.taken.lock().unwrap().requests += 1;
    match mood {
        Mood::Takes => {}
        Mood::Refuses => return StatusCode::SERVICE_UNAVAILABLE,
        Mood::Hangs => std::future::pending().await,
    }
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let body = match headers.get("content-encoding") {
        None => body.to_vec(),
        Some(gzip) => {
            assert_eq!(gzip, "gzip");
            let mut plain = Vec::new();
            let mut decoder = flate2::read::GzDecoder::new(&body[..]);
            std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
            plain
        }
    };
    let mut taken = shared.taken.lock().unwrap();
    taken.headers = headers;
    match uri.path() {
        "/v1/traces" => take_spans(&mut taken, &body),
        "/v1/logs" => take_lines(&mut taken, &body),
        other => panic!("{other}"),
    }
    StatusCode::OK
}

fn take_spans(taken: &mut Taken, body: &[u8]) {
    for of_resource in ExportTraceServiceRequest::decode(body).unwrap().resource_spans {
        taken.resource = attributes(of_resource.resource.unwrap().attributes);
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let ids = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
                (hex(&link.trace_id), hex(&link.span_id))
            };
            taken.spans.push(TakenSpan {
                trace_id: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span.links.iter().map(ids).collect(),
                name: span.name,
                kind: span.kind,
                attributes: attributes(span.attributes),
                is_error: span.status.is_some_and(|status| status.code == 2),
                started_before_it_ended: span.start_time_unix_nano > 0
                    && span.start_time_unix_nano <= span.end_time_unix_nano,
            });
        }
    }
}

fn take_lines(taken: &mut Taken, body: &[u8]) {
    for of_resource in ExportLogsServiceRequest::decode(body).unwrap().resource_logs {
        taken.resource = attributes(of_resource.resource.unwrap().attributes);
        for line in of_resource.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            assert!(line.time_unix_nano > 0);
            taken.lines.push(TakenLine {
                trace_id: hex(&line.trace_id),
                severity: line.severity_text,
                body: text(line.body),
                attributes: attributes(line.attributes),
            });
        }
    }
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is_true)) => is_true.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}
