//! Beginning an erasure, and following one: `erasure`.

use clap::Subcommand;

use super::CliError;
use super::output::lines;
use super::store::Common;
use crate::api::{Subsystems, erasures};
use crate::domain::{Actor, Erasure, ErasureId, ErasureSubject, OrgId};

#[derive(Subcommand, Debug)]
pub(super) enum ErasureCommand {
    /// List an organisation's latest erasures, newest first
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Show an erasure and its progress
    Show {
        /// The organisation it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The erasure
        id: ErasureId,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs a command on erasures.
pub(super) async fn run(command: ErasureCommand) -> Result<(), CliError> {
    match command {
        ErasureCommand::List { org, common } => {
            let list = async |s: &Subsystems, page| erasures::list(s, org, page).await;
            let erasures = common.newest_of(org, list).await?;
            common.output.write(&erasures, |erasures| lines(erasures, erasure_line))?;
        }
        ErasureCommand::Show { org, id, common } => {
            let erasure = common.existing(async |s| erasures::one(s, org, id).await).await?;
            common.output.write(&erasure, erasure_line)?;
        }
    }
    Ok(())
}

/// Begins an erasure.
pub(super) async fn erase(
    org: OrgId,
    filter: ErasureSubject,
    common: &Common,
) -> Result<(), CliError> {
    let erase =
        async |s: &Subsystems| erasures::request(s, org, &filter, s.clock.now(), &Actor::CLI).await;
    let erasure = common.existing(erase).await?;
    common.output.write(&erasure, erasure_line)?;
    Ok(())
}

fn erasure_line(erasure: &Erasure) -> String {
    let Erasure { id, filter, status, events, deliveries, dead_letters, .. } = erasure;
    let what = match filter {
        ErasureSubject::Event(event) => format!("event {event}"),
        ErasureSubject::Account(account) => format!("account {account}"),
    };
    format!(
        "{id}  {what}  {}  erased: {events} events, {deliveries} deliveries, {dead_letters} dead letters",
        status.as_str()
    )
}
