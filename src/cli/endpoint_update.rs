//! `hookgate endpoint update`: changes an endpoint by the API of a server, which checks the values.

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::CliError;
use super::api::ServerArgs;
use crate::domain::EndpointId;

/// What takes a setting back.
const NONE: &str = "none";

/// An endpoint and its changes; what is not given stays as it is.
#[derive(Args, Debug)]
pub(super) struct EndpointUpdate {
    /// The endpoint
    id: EndpointId,
    /// Where webhooks are posted
    #[arg(long, value_name = "URL")]
    endpoint_url: Option<String>,
    /// Event types that it receives, such as user.login,invoice.*; none means all
    #[arg(long, value_name = "FILTERS")]
    event_types: Option<String>,
    /// A note for people; none removes it
    #[arg(long)]
    description: Option<String>,
    /// The body of its webhooks, standard or cloudevents
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Whether events are sent to it; true also sends what was due meanwhile
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// Webhooks in flight at most; none follows the server
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    max_concurrency: Option<Value>,
    /// Webhooks started per second at most; none means no limit
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    rate_limit_per_second: Option<Value>,
    /// Waits between attempts, such as 5s,5m,1h; none follows the server
    #[arg(long, value_name = "DURATIONS")]
    retry_schedule: Option<String>,
    /// Whether webhooks are delivered one at a time, in the order in which events were accepted
    #[arg(long, value_name = "BOOL")]
    ordered: Option<bool>,
    /// Seconds for which a received event is hidden from other consumers of an inbox; none means 30
    #[arg(long, value_name = "SECONDS", value_parser = number)]
    visibility_seconds: Option<Value>,
    /// How often an inbox gives an event out before it is a dead letter; none means 10
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    max_receives: Option<Value>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Changes the endpoint, and prints it.
pub(super) async fn run(update: EndpointUpdate) -> Result<(), CliError> {
    let (id, patch, server) = update.patch();
    if patch.is_empty() {
        return Err("nothing to change: give an option such as --event-types".into());
    }
    let body = Value::Object(patch).to_string();
    server.print(Method::PATCH, &format!("/api/endpoints/{id}"), Some(body)).await
}

impl EndpointUpdate {
    /// The merge patch with what was given.
    fn patch(self) -> (EndpointId, Map<String, Value>, ServerArgs) {
        let Self {
            id,
            endpoint_url,
            event_types,
            description,
            format,
            enabled,
            max_concurrency,
            rate_limit_per_second,
            retry_schedule,
            ordered,
            visibility_seconds,
            max_receives,
            server,
        } = self;
        let fields = [
            ("url", endpoint_url.map(Value::from)),
            ("event_types", event_types.map(|text| list(&text))),
            ("description", description.map(|text| unless_none(&text, |text| text.into()))),
            ("format", format.map(Value::from)),
            ("enabled", enabled.map(Value::from)),
            ("max_concurrency", max_concurrency),
            ("rate_limit_per_second", rate_limit_per_second),
            ("retry_schedule", retry_schedule.map(|text| list(&text))),
            ("ordered", ordered.map(Value::from)),
            ("visibility_seconds", visibility_seconds),
            ("max_receives", max_receives),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        (id, given.collect(), server)
    }
}

fn unless_none(text: &str, value: impl FnOnce(&str) -> Value) -> Value {
    if text == NONE { Value::Null } else { value(text) }
}

/// Words separated by commas.
fn list(text: &str) -> Value {
    unless_none(text, |text| {
        json!(text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect::<Vec<_>>())
    })
}

/// A whole number, or `none`.
fn number(text: &str) -> Result<Value, String> {
    if text == NONE {
        return Ok(Value::Null);
    }
    text.parse::<u32>().map(Value::from).map_err(|_| "must be a whole number, or none".to_owned())
}
