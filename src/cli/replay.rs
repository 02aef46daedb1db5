//! Commands on replays and discards of dead letters: `replay`.

use clap::Subcommand;

use super::CliError;
use super::output::lines;
use super::store::Common;
use crate::api::{Subsystems, replays};
use crate::domain::{OrgId, Replay, ReplayId};

#[derive(Subcommand, Debug)]
pub(super) enum ReplayCommand {
    /// List an organisation's latest replays, newest first
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Show a replay and its progress
    Show {
        /// The organisation it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The replay
        id: ReplayId,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs a command on replays.
pub(super) async fn run(command: ReplayCommand) -> Result<(), CliError> {
    match command {
        ReplayCommand::List { org, common } => {
            let list = async |s: &Subsystems, page| replays::list(s, org, page).await;
            let replays = common.newest_of(org, list).await?;
            common.output.write(&replays, |replays| lines(replays, replay_line))?;
        }
        ReplayCommand::Show { org, id, common } => {
            let replay = common.existing(async |s| replays::one(s, org, id).await).await?;
            common.output.write(&replay, replay_line)?;
        }
    }
    Ok(())
}

fn replay_line(replay: &Replay) -> String {
    let total = replay.total.map_or("?".to_owned(), |total| total.to_string());
    let Replay { id, done, skipped, .. } = replay;
    let action = replay.action.as_str();
    let why = replay.detail.as_deref().map_or(String::new(), |why| format!("  {why}"));
    let status = replay.status.as_str();
    format!("{id}  {action}  {status}  done: {done} of {total}  skipped: {skipped}{why}")
}
