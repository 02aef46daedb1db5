//! Commands on events: `event`.

use std::io::{self, Write};
use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::CliError;
use super::api::{ServerArgs, json_argument, with_query};
use super::erasure::erase;
use super::output::Output;
use super::printable::{printable_json, printable_line};
use super::store::Common;
use crate::api::changes::{Change, ChangeFilter, ChangeFollower};
use crate::api::{Subsystems, orgs};
use crate::app::admin;
use crate::domain::{
    ChangeKind, EndpointId, ErasureSubject, EventId, EventTypeFilter, OrgId, Timestamp,
};

/// Time between two looks for changes.
const POLL: Duration = Duration::from_millis(500);

#[derive(Subcommand, Debug)]
pub(super) enum EventCommand {
    /// Post an event to a server
    Post {
        /// Its type, such as user.login
        #[arg(value_name = "TYPE")]
        event_type: String,
        /// Its payload, any JSON value; - reads it from standard input
        #[arg(default_value = "null")]
        payload: String,
        /// Your account that it belongs to
        #[arg(long, value_name = "ID")]
        account_id: Option<String>,
        /// Your user that it belongs to
        #[arg(long, value_name = "ID")]
        user_id: Option<String>,
        /// A further event with the same one is dropped
        #[arg(long, value_name = "ID")]
        dedup_id: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List the events that a server has, newest first
    List {
        /// Of this type, such as user.login or user.*
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Of this account
        #[arg(long, value_name = "ID")]
        account_id: Option<String>,
        /// Accepted at this time or later
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Accepted before this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Events to list at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where the list goes on
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show an event with its payload and its newest deliveries, as a server has it
    Show {
        /// The event
        id: EventId,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Have a server send an event again, to every endpoint that it was planned for
    Replay {
        /// The event
        id: EventId,
        /// Only to this endpoint
        #[arg(long, value_name = "ID")]
        endpoint: Option<EndpointId>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Erase an event with its deliveries for good; a running server does it in the background
    Erase {
        /// The organisation it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The event
        id: EventId,
        #[command(flatten)]
        common: Common,
    },
    /// Print events, outcomes of attempts and dead letters of an organisation as they come, until it is interrupted
    Tail {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// What to print, separated by commas: event, delivery, dead_letter; default: all
        #[arg(long, value_name = "KINDS", value_delimiter = ',')]
        kinds: Vec<ChangeKind>,
        /// Events of this type only, such as user.login or user.*
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<EventTypeFilter>,
        /// Events with their payloads
        #[arg(long)]
        payload: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// An event as it is posted.
#[derive(Serialize)]
struct PostedEvent {
    r#type: String,
    payload: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dedup_id: Option<String>,
}

/// Runs a command on events.
pub(super) async fn run(command: EventCommand) -> Result<(), CliError> {
    match command {
        EventCommand::Post { event_type, payload, account_id, user_id, dedup_id, server } => {
            let payload = json_argument(&payload)?;
            let posted = PostedEvent { r#type: event_type, payload, account_id, user_id, dedup_id };
            let body = serde_json::to_string(&posted)?;
            server.print(Method::POST, "/api/events", Some(body)).await
        }
        EventCommand::List { event_type, account_id, since, until, limit, cursor, server } => {
            let limit = Some(limit.to_string());
            let parameters = [
                ("type", event_type),
                ("account_id", account_id),
                ("since", since),
                ("until", until),
                ("limit", limit),
                ("cursor", cursor),
            ];
            let fields = ["id", "received_at", "type", "account_id", "user_id"];
            server.print_list(&with_query("/api/events", &parameters), &fields).await
        }
        EventCommand::Show { id, server } => {
            server.print(Method::GET, &format!("/api/events/{id}"), None).await
        }
        EventCommand::Replay { id, endpoint, server } => {
            let body = endpoint.map(|id| json!({ "endpoint_id": id.to_string() }).to_string());
            server.print(Method::POST, &format!("/api/events/{id}/replay"), body).await
        }
        EventCommand::Erase { org, id, common } => {
            erase(org, ErasureSubject::Event(id), &common).await
        }
        EventCommand::Tail { org, kinds, event_type, payload, common } => {
            let kinds = if kinds.is_empty() { ChangeKind::ALL.to_vec() } else { kinds };
            let filter = ChangeFilter { kinds, event_type, with_payloads: payload };
            let subsystems = admin::open_existing(&common.store).await?;
            let followed = follow(&subsystems, org, filter, common.output).await;
            subsystems.store.close().await;
            followed
        }
    }
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
            let line = match output {
                Output::Text => text(change)?,
                Output::Json => printable_json(&serde_json::to_string(&Line {
                    kind: change.kind().as_str(),
                    data: change,
                })?),
            };
            match writeln!(io::stdout().lock(), "{line}") {
                // Nobody reads any more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        if !changes.more {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A line for programs.
#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    data: &'a Change,
}

fn text(change: &Change) -> Result<String, CliError> {
    let optional = |at: Option<Timestamp>| at.map_or("-".to_owned(), |at| at.to_string());
    Ok(match change {
        Change::Event(event) => {
            format!("event  {}", printable_json(&serde_json::to_string(event)?))
        }
        Change::Delivery(delivery) => format!(
            "delivery  {}  {}  event {}  endpoint {}  attempts: {}  next: {}",
            delivery.id,
            delivery.status.as_str(),
            delivery.event_id,
            delivery.endpoint_id,
            delivery.attempt_count,
            optional(delivery.next_attempt_at),
        ),
        Change::DeadLetter(letter) => format!(
            "dead letter  {}  {}  event {}  {}",
            letter.id,
            letter.reason,
            letter.event_id,
            printable_line(letter.detail.as_deref().unwrap_or("-")),
        ),
    })
}
