//! Commands on events: `event`.

use clap::Subcommand;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::CliError;
use super::api::{ListArgs, ServerArgs, json_argument};
use super::erasure::erase;
use super::event_tail;
use super::store::Common;
use super::target::TargetArgs;
use crate::api::changes::ChangeFilter;
use crate::domain::{ChangeKind, EndpointId, ErasureSubject, EventId, EventTypeFilter, OrgId};

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
        /// Of this account
        #[arg(long, value_name = "ID")]
        account_id: Option<String>,
        /// Of this user
        #[arg(long, value_name = "ID")]
        user_id: Option<String>,
        #[command(flatten)]
        list: ListArgs,
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
    /// Print events, outcomes of attempts and dead letters as they come, until it is interrupted: from a server, or with
    /// --org from the store
    Tail {
        /// The organisation, in the store
        #[arg(long, value_name = "ID", conflicts_with_all = ["url", "api_key", "profile"])]
        org: Option<OrgId>,
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
        target: TargetArgs,
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
        EventCommand::List { account_id, user_id, list } => {
            let parameters = [("account_id", account_id), ("user_id", user_id)];
            let fields = ["id", "received_at", "type", "account_id", "user_id"];
            list.print("/api/events", &parameters, &fields).await
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
        EventCommand::Tail { org, kinds, event_type, payload, target, common } => {
            let kinds = if kinds.is_empty() { ChangeKind::ALL.to_vec() } else { kinds };
            let filter = ChangeFilter { kinds, event_type, with_payloads: payload };
            match org {
                Some(org) => event_tail::of_store(org, filter, &common).await,
                None => event_tail::of_server(&target.server()?, &filter, common.output).await,
            }
        }
    }
}
