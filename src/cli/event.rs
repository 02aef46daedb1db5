//! Commands on events: `event`.

use std::io::{self, Write};
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::CliError;
use super::erasure::erase;
use super::output::Output;
use super::store::Common;
use crate::api::changes::{Change, ChangeFilter, ChangeFollower};
use crate::api::{Subsystems, orgs};
use crate::app::admin;
use crate::domain::{ChangeKind, ErasureSubject, EventId, EventTypeFilter, OrgId, Timestamp};

/// Time between two looks for changes.
const POLL: Duration = Duration::from_millis(500);

#[derive(Subcommand, Debug)]
pub(super) enum EventCommand {
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

/// Runs a command on events.
pub(super) async fn run(command: EventCommand) -> Result<(), CliError> {
    match command {
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
                Output::Json => {
                    serde_json::to_string(&Line { kind: change.kind().as_str(), data: change })?
                }
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
        Change::Event(event) => format!("event  {}", serde_json::to_string(event)?),
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
            letter.detail.as_deref().unwrap_or("-"),
        ),
    })
}
