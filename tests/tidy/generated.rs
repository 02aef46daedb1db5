//! Documents that are generated from the code: `.env.example`, and the ends of `docs/configuration.md`,
//! `docs/errors.md` and `docs/metrics.md`. With `UPDATE_DOCS=1` the tests write them; without it they compare.

use std::fmt::Write;
use std::fs;

use hookgate::app::Metrics;
use hookgate::http::{PROBLEMS, Problem};
use hookgate::telemetry::{Family, Kind};

use super::root;
use crate::settings::{Setting, sections};

/// Everything below this line of a document is generated.
const GENERATED: &str = "<!-- Generated from here on: UPDATE_DOCS=1 cargo test --test tidy -->\n";

/// Settings without a default, and what `.env.example` shows instead.
const EXAMPLES: &[(&str, &str)] = &[
    ("TLS_CERT", "/etc/hookgate/cert.pem"),
    ("TLS_KEY", "/etc/hookgate/key.pem"),
    ("DATABASE_URL", "postgres://user:password@localhost/hookgate"),
    ("DATABASE_LISTEN_URL", "postgres://user:password@localhost/hookgate"),
    ("DATABASE_READ_URL", "postgres://user:password@replica/hookgate"),
    ("SECRETS_KEY", "output-of-openssl-rand-base64-32"),
    ("BOOTSTRAP_API_KEY", "output-of-hookgate-key-generate"),
    ("BOOTSTRAP_OPERATOR_KEY", "output-of-hookgate-key-generate"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://localhost:4318/v1/traces"),
    ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://localhost:4318/v1/logs"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20KEY"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/etc/hookgate/collector-ca.pem"),
    ("OTEL_SERVICE_NAME", "hookgate"),
    ("RETENTION", "90d"),
    ("PAYLOAD_RETENTION", "30d"),
    ("DEAD_LETTER_RETENTION", "90d"),
    ("ROLLUP_RETENTION", "365d"),
    ("REPLAY_RETENTION", "90d"),
    ("KEY_RETENTION", "90d"),
    ("AUDIT_RETENTION", "365d"),
    ("WORKERS", "8"),
    ("BODIES_IN_FLIGHT_MIB", "128"),
    ("ANSWERS_IN_FLIGHT_MIB", "128"),
    ("WEBHOOK_CA_FILE", "/etc/hookgate/ca.pem"),
];

/// Metrics from the time before the prefix `hookgate_`. Dashboards know these names; the list does
/// not grow.
const UNPREFIXED: &[&str] = &[
    "auth_hashes_total",
    "auth_latency_seconds",
    "cache_lookups_total",
    "db_operations_latency_seconds",
    "deliveries_planned_total",
    "delivery_progress_age_seconds",
    "delivery_queue_size",
    "dispatcher_heartbeat_age_seconds",
    "endpoint_breakers_open",
    "event_ingestion_latency_seconds",
    "event_queue_size",
    "events_duplicate_total",
    "events_ingested_total",
    "events_stored_total",
    "events_unstorable_total",
    "journal_bytes",
    "journal_group_appends",
    "journal_sync_seconds",
    "oldest_due_delivery_age_seconds",
    "oldest_unplanned_event_age_seconds",
    "rate_limit_check_latency_seconds",
    "rejected_requests_total",
    "validation_errors_total",
    "webhook_attempt_seconds",
    "webhook_deliveries_total",
    "webhook_errors_total",
    "webhooks_in_flight",
];

#[test]
fn new_metrics_begin_with_hookgate_and_old_ones_stay() {
    let families = Metrics::new().unwrap().registry.families();
    let names: Vec<&str> = families.iter().map(|family| family.name).collect();
    for name in &names {
        assert!(
            name.starts_with("hookgate_")
                // Names that every process has under Prometheus.
                || name.starts_with("process_")
                || UNPREFIXED.contains(name),
            "{name} must begin with hookgate_"
        );
    }
    for name in UNPREFIXED {
        assert!(names.contains(name), "{name} is missing: dashboards and alerts use it");
    }
}

#[test]
fn metrics_document_lists_every_metric() {
    let families = Metrics::new().unwrap().registry.families();
    let mut text = written_head("docs/metrics.md");
    let mut owner = "";
    for family in &families {
        if family.owner != owner {
            owner = family.owner;
            write!(
                text,
                "\n## {owner}\n\n| metric | type | set | labels | meaning |\n|---|---|---|---|---|\n"
            )
            .unwrap();
        }
        writeln!(text, "{}", metric_row(family)).unwrap();
    }
    text.push_str("\n## Buckets\n\n| histogram | upper bounds |\n|---|---|\n");
    for family in &families {
        if let Kind::Histogram(buckets) = family.kind {
            let bounds: Vec<String> = buckets.iter().map(ToString::to_string).collect();
            writeln!(text, "| `{}` | {} |", family.name, bounds.join(", ")).unwrap();
        }
    }
    hold("docs/metrics.md", &text);
}

fn metric_row(family: &Family) -> String {
    let quoted = |texts: &[&str]| {
        texts.iter().map(|text| format!("`{text}`")).collect::<Vec<_>>().join(", ")
    };
    let mut labels = quoted(&family.labels);
    if !family.label_values.is_empty() {
        write!(labels, ": {}", quoted(&family.label_values)).unwrap();
    }
    let Family { name, kind, is_core, help, .. } = family;
    let set = if *is_core { "core" } else { "all" };
    format!("| `{name}` | {kind} | {set} | {labels} | {help} |")
}

#[test]
fn errors_document_lists_every_problem() {
    let mut text = written_head("docs/errors.md");
    text.push_str("\n| status | `code` | what to do |\n|---|---|---|\n");
    for Problem { status, code, remedy, .. } in PROBLEMS {
        writeln!(text, "| {status} | `{code}` | {remedy} |").unwrap();
    }
    hold("docs/errors.md", &text);
}

#[test]
fn configuration_document_lists_every_setting() {
    let mut text = written_head("docs/configuration.md");
    for (heading, settings) in sections() {
        write!(
            text,
            "\n## {heading}\n\n| variable | flag | value | default | meaning |\n|---|---|---|---|---|\n"
        )
        .unwrap();
        for setting in settings {
            writeln!(text, "{}", setting_row(&setting)).unwrap();
        }
    }
    hold("docs/configuration.md", &text);
}

fn setting_row(setting: &Setting) -> String {
    let Setting { variable, flag, value, default, help } = setting;
    let default = match default.as_deref() {
        None => "unset".to_owned(),
        Some("") => "empty".to_owned(),
        Some(default) => format!("`{default}`"),
    };
    format!("| `{variable}` | `--{flag}` | {value} | {default} | {} |", help.replace('|', "\\|"))
}

#[test]
fn example_environment_lists_every_setting() {
    let mut text = "# Every setting of `hookgate serve`, with its default. Copy this file to .env and change what you need.\n\
         # The environment overrides .env, and a flag overrides both. docs/configuration.md explains more.\n"
        .to_owned();
    for (heading, settings) in sections() {
        write!(text, "\n# -- {heading} {}\n\n", "-".repeat(95 - heading.len())).unwrap();
        for Setting { variable, default, help, .. } in settings {
            let example = EXAMPLES.iter().find(|(name, _)| *name == variable);
            assert_eq!(default.is_none(), example.is_some(), "{variable}: default or example");
            let shown = default.as_deref().or(example.map(|(_, example)| *example)).unwrap();
            writeln!(text, "# {help}\n# {variable}={shown}").unwrap();
        }
    }
    hold(".env.example", &text);
}

/// The hand-written part of a document, with the line that ends it.
fn written_head(path: &str) -> String {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let (head, _) = text.split_once(GENERATED).unwrap();
    format!("{head}{GENERATED}")
}

/// Writes the file if `UPDATE_DOCS` is set, and otherwise requires it to have this text.
pub(super) fn hold(path: &str, text: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(file, text).unwrap();
        return;
    }
    let found = fs::read_to_string(file).unwrap_or_default();
    assert!(found == text, "{path} is not current; run UPDATE_DOCS=1 cargo test --test tidy");
}
