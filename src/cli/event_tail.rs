//! `hookgate event tail`: what happens in an organisation, as it happens, from the store or from a server.

use std::io::{self, Write};
use std::time::Duration;

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::CliError;
use super::api::with_query;
use super::output::{Output, note};
use super::printable::{printable_json, printable_line};
use super::server::{ApiServer, ServerError};
use super::server_events::{SentEvent, ServerEvents};
use super::store::Common;
use crate::api::changes::{ChangeFilter, ChangeFollower};
use crate::api::{Subsystems, orgs};
use crate::app::admin;
use crate::domain::{ChangeKind, OrgId};

/// Time between two looks for changes.
const POLL: Duration = Duration::from_millis(500);
/// Time until a server is asked again after a stream has ended.
const RETRY: Duration = Duration::from_secs(2);

/// Prints what the store gets, until nobody reads it.
pub(super) async fn of_store(
    org: OrgId,
    filter: ChangeFilter,
    common: &Common,
) -> Result<(), CliError> {
    let subsystems = admin::open_existing(&common.store).await?;
    let followed = follow(&subsystems, org, filter, common.output).await;
    subsystems.store.close().await;
    followed
}

async fn follow(
    subsystems: &Subsystems,
    org: OrgId,
    filter: ChangeFilter,
    output: Output,
) -> Result<(), CliError> {
    orgs::existing(subsystems, org).await?;
    let (mut follower, _) = ChangeFollower::begin(subsystems, org, filter, None).await?;
    loop {
        let changes = follower.step(subsystems).await?;
        for (_, change) in &changes.shown {
            let data = serde_json::value::to_raw_value(change)?;
            if !print(change.kind().as_str(), &data, output)? {
                return Ok(());
            }
        }
        if !changes.more {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Prints what a server streams, until nobody reads it. A stream that ends is resumed behind the last change.
pub(super) async fn of_server(
    server: &ApiServer,
    filter: &ChangeFilter,
    output: Output,
) -> Result<(), CliError> {
    let ChangeFilter { kinds, event_type, with_payloads } = filter;
    // The server takes one kind, or shows all of them.
    let kind = if let [kind] = &kinds[..] { Some(kind.as_str().to_owned()) } else { None };
    let parameters = [
        ("kind", kind),
        ("type", event_type.as_ref().map(ToString::to_string)),
        ("include", with_payloads.then(|| "payload".to_owned())),
    ];
    let path = with_query("/api/stream", &parameters);
    let is_shown = |sent: &SentEvent| {
        kinds.iter().map(|kind: &ChangeKind| kind.as_str()).any(|kind| kind == sent.kind)
    };
    let mut last = None;
    loop {
        match server.follow(&path, last.as_deref()).await {
            Ok(answer) => {
                let mut events = ServerEvents::new(answer);
                while let Some(sent) = events.next().await? {
                    if sent.kind == "reset" {
                        note("some changes were missed, since they are not kept any longer");
                    } else if is_shown(&sent) {
                        let data: Box<RawValue> = serde_json::from_str(&sent.data)?;
                        if !print(&sent.kind, &data, output)? {
                            return Ok(());
                        }
                    }
                    last = sent.id;
                }
            }
            // A server that was never reached is an error, and so is a key that is no longer taken.
            Err(error) if last.is_none() || !passes(&error) => return Err(error.into()),
            Err(error) => note(&format!("the stream is interrupted: {error}")),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Whether a failure may be over later.
const fn passes(error: &ServerError) -> bool {
    match error {
        ServerError::NoAnswer { .. } => true,
        ServerError::Refused { status, .. } => {
            status.as_u16() >= 500 || status.as_u16() == StatusCode::TOO_MANY_REQUESTS.as_u16()
        }
        _ => false,
    }
}

/// A line for programs.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'a str,
    data: &'a RawValue,
}

/// Prints a change; `false` when nobody reads any more.
fn print(kind: &str, data: &RawValue, output: Output) -> Result<bool, CliError> {
    let line = match output {
        Output::Text => text(kind, data.get())?,
        Output::Json => printable_json(&serde_json::to_string(&Line { kind, data })?),
    };
    match writeln!(io::stdout().lock(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

/// A change for people. An event is shown as it is, whose payload may be no [`Value`].
fn text(kind: &str, data: &str) -> Result<String, CliError> {
    if kind == ChangeKind::Event.as_str() {
        return Ok(format!("event  {}", printable_json(data)));
    }
    let change: Value = serde_json::from_str(data)?;
    let field = |name: &str| match &change[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable_line(text),
        other => other.to_string(),
    };
    Ok(if kind == ChangeKind::Delivery.as_str() {
        format!(
            "delivery  {}  {}  event {}  endpoint {}  attempts: {}  next: {}",
            field("id"),
            field("status"),
            field("event_id"),
            field("endpoint_id"),
            field("attempt_count"),
            field("next_attempt_at"),
        )
    } else {
        let [id, reason, event] = ["id", "reason", "event_id"].map(field);
        format!("dead letter  {id}  {reason}  event {event}  {}", field("detail"))
    })
}
