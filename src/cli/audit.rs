//! Commands on the audit log: `audit`.

use clap::Subcommand;

use super::CliError;
use super::output::lines;
use super::store::Common;
use crate::api::audit;
use crate::domain::{AuditEntry, OrgId, PageRequest};

#[derive(Subcommand, Debug)]
pub(super) enum AuditCommand {
    /// List audit entries, newest first
    List {
        /// Of this organisation only
        #[arg(long, value_name = "ID")]
        org: Option<OrgId>,
        /// Entries to list at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        #[command(flatten)]
        common: Common,
    },
}

/// Runs a command on the audit log.
pub(super) async fn run(command: AuditCommand) -> Result<(), CliError> {
    let AuditCommand::List { org, limit, common } = command;
    let page = PageRequest::first(limit);
    let log = common.existing(async |s| audit::list(s, org, page).await).await?;
    common.output.write(&log.data, |entries| lines(entries, audit_line))?;
    Ok(())
}

fn audit_line(entry: &AuditEntry) -> String {
    let org = entry.org_id.map_or(String::new(), |org| format!("  organisation {org}"));
    let from = entry.address.as_deref().map_or(String::new(), |from| format!(" from {from}"));
    let AuditEntry { at, actor, action, object, changes, .. } = entry;
    format!("{at}  {actor}{from}  {action} {object}{org}  {changes}")
}
