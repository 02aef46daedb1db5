//! Commands on dead letters, through a server: `dead-letter`.

use clap::Subcommand;
use reqwest::Method;

use super::CliError;
use super::api::{ServerArgs, with_query};
use crate::domain::{DeadLetterId, EndpointId};

#[derive(Subcommand, Debug)]
pub(super) enum DeadLetterCommand {
    /// List dead letters, newest first
    List {
        /// To this endpoint
        #[arg(long, value_name = "ID")]
        endpoint: Option<EndpointId>,
        /// Of events of this type, such as user.login or user.*
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<String>,
        /// Given up at this time or later
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Only those that were replayed, or only the others
        #[arg(long)]
        replayed: Option<bool>,
        /// Dead letters to list at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where the list goes on
        #[arg(long)]
        cursor: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
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
        DeadLetterCommand::List {
            endpoint,
            event_type,
            since,
            replayed,
            limit,
            cursor,
            server,
        } => {
            let parameters = [
                ("endpoint_id", endpoint.map(|id| id.to_string())),
                ("type", event_type),
                ("since", since),
                ("replayed", replayed.map(|replayed| replayed.to_string())),
                ("limit", Some(limit.to_string())),
                ("cursor", cursor),
            ];
            let fields =
                ["id", "created_at", "event_type", "endpoint_url", "reason", "status_code"];
            server.print_list(&with_query("/api/dead-letters", &parameters), &fields).await
        }
        DeadLetterCommand::Replay(OneDeadLetter { id, server }) => {
            server.print(Method::POST, &format!("/api/dead-letters/{id}/replay"), None).await
        }
        DeadLetterCommand::Discard(OneDeadLetter { id, server }) => {
            server.print(Method::DELETE, &format!("/api/dead-letters/{id}"), None).await
        }
    }
}
