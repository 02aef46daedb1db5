//! Commands on dead letters, through a server: `dead-letter`.

use clap::Subcommand;
use reqwest::Method;

use super::CliError;
use super::api::{ListArgs, ServerArgs};
use crate::domain::{DeadLetterId, EndpointId, EventId};

#[derive(Subcommand, Debug)]
pub(super) enum DeadLetterCommand {
    /// List dead letters, newest first
    List {
        /// To this endpoint
        #[arg(long, value_name = "ID")]
        endpoint: Option<EndpointId>,
        /// Of this event
        #[arg(long, value_name = "ID")]
        event: Option<EventId>,
        /// Only those that were replayed, or only the others
        #[arg(long)]
        replayed: Option<bool>,
        #[command(flatten)]
        list: ListArgs,
    },
    /// Send a dead letter's event again, as a new delivery
    Replay(OneDeadLetter),
    /// Delete a dead letter
    Discard(OneDeadLetter),
}

/// A dead letter.
#[derive(clap::Args, Debug)]
pub(super) struct OneDeadLetter {
    /// The dead letter
    id: DeadLetterId,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs a command on dead letters.
pub(super) async fn run(command: DeadLetterCommand) -> Result<(), CliError> {
    match command {
        DeadLetterCommand::List { endpoint, event, replayed, list } => {
            let parameters = [
                ("endpoint_id", endpoint.map(|id| id.to_string())),
                ("event_id", event.map(|id| id.to_string())),
                ("replayed", replayed.map(|replayed| replayed.to_string())),
            ];
            let fields =
                ["id", "created_at", "event_type", "endpoint_url", "reason", "status_code"];
            list.print("/api/dead-letters", &parameters, &fields).await
        }
        DeadLetterCommand::Replay(OneDeadLetter { id, server }) => {
            server.print(Method::POST, &format!("/api/dead-letters/{id}/replay"), None).await
        }
        DeadLetterCommand::Discard(OneDeadLetter { id, server }) => {
            server.print(Method::DELETE, &format!("/api/dead-letters/{id}"), None).await
        }
    }
}
