//! Collectors that do not take what they get, the stop, and settings that are refused.

use std::time::Duration;

use super::{TRACE, post_event, start, subscribe, traceparent};
use crate::support::binary::Binary;
use crate::support::collector::{Collector, Mood};
use crate::support::receiver::Receiver;
use crate::support::wait::until;
use crate::support::{client, temporary};

/// Much longer than a stop takes.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn collector_that_hangs_delays_neither_events_nor_the_stop() {
    let (collector, receiver) = (Collector::start().await, Receiver::start().await);
    collector.set_mood(Mood::Hangs);
    let directory = temporary::directory();
    let settings = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "4"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "3600000"),
        ("SHUTDOWN_TIMEOUT", "1h"),
    ];
    let mut server = start(directory.path(), &collector, &settings).await;
    let (key, operator) = server.first_keys().await;
    subscribe(&server, &key, &receiver).await;
    for _ in 0..20 {
        post_event(&server, &key, &[]).await;
    }
    receiver.received(20).await;
    let dropped = r#"hookgate_otlp_spans_total{result="dropped"}"#;
    until("spans are dropped", async || metric(&server, &operator, dropped).await > 0).await;
    let log = tokio::time::timeout(SOON, server.stop()).await.expect("it stops");
    assert!(log.iter().any(|line| line.contains("\"stopped\"")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_that_refuses_is_told_once_and_gets_what_comes_later() {
    let collector = Collector::start().await;
    collector.set_mood(Mood::Refuses);
    let directory = temporary::directory();
    let settings = [("OTEL_BSP_EXPORT_TIMEOUT", "100"), ("OTEL_LOGS_EXPORTER", "none")];
    let mut server = start(directory.path(), &collector, &settings).await;
    let (key, operator) = server.first_keys().await;
    let failed = r#"hookgate_otlp_spans_total{result="failed"}"#;
    for lost in 1..=3 {
        post_event(&server, &key, &[]).await;
        until("it is lost", async || metric(&server, &operator, failed).await >= lost).await;
    }
    collector.set_mood(Mood::Takes);
    post_event(&server, &key, &[("traceparent", &traceparent("01"))]).await;
    collector.spans(1).await;
    let log = server.stop().await;
    let told = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(told("the OpenTelemetry collector takes nothing"), 1, "{log:#?}");
    assert_eq!(told("the OpenTelemetry collector takes exports again"), 1, "{log:#?}");
}

/// The value of a metric.
async fn metric(server: &Binary, operator: &str, name: &str) -> u64 {
    let request = client().get(format!("{}/metrics", server.base_url));
    let text = request.header("x-api-key", operator).send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_that_wait_at_the_stop_are_exported() {
    let collector = Collector::start().await;
    let directory = temporary::directory();
    let slow = [("OTEL_BSP_SCHEDULE_DELAY", "3600000"), ("OTEL_BLRP_SCHEDULE_DELAY", "3600000")];
    let mut server = start(directory.path(), &collector, &slow).await;
    let (key, _) = server.first_keys().await;
    post_event(&server, &key, &[("traceparent", &traceparent("01"))]).await;
    server.stop().await;
    let taken = collector.taken();
    assert!(taken.spans.iter().any(|span| span.trace_id == TRACE), "{:?}", taken.spans);
    assert!(taken.lines.iter().any(|line| line.body == "stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_settings_are_refused_by_name() {
    let directory = temporary::directory();
    for (name, value, rule) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317", "must be an http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://u:p@a", "must have no user or password"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "a", "must be an http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "a", "must be an http:// or https:// URL"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hg_s3cret", "must be name=value"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "invalid digit"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "missing.pem", "No such file"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a", "must be name=value"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%", "must be a number from 0 to 1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "not in 1..=65536"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "must be at most OTEL_BSP_MAX_QUEUE_SIZE=2048"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "0", "not in 1..=3600000"),
        ("OTEL_SDK_DISABLED", "perhaps", "true, false"),
    ] {
        let mut settings = vec![(name, value)];
        if name != "OTEL_EXPORTER_OTLP_ENDPOINT" {
            settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"));
        }
        let (status, log) = Binary::fail_to_start(directory.path(), &settings).await;
        assert!(!status.success(), "{name}={value}");
        let log = log.join("\n");
        let flag = format!("--{}", name.to_lowercase().replace('_', "-"));
        assert!(log.contains(name) || log.contains(&flag), "{name}={value}: {log}");
        assert!(log.contains(rule), "{name}={value}: {log}");
        assert!(!log.contains("hg_s3cret"), "{log}");
    }
}
