//! The command `usage`.

use clap::Args;

use super::CliError;
use super::output::lines;
use super::store::Common;
use crate::api::views::UsageView;
use crate::api::{Subsystems, analytics};
use crate::domain::{Month, OrgId};

/// What the command takes.
#[derive(Args, Debug)]
pub(super) struct UsageArgs {
    /// The month in UTC, as in 2026-01; by default the current one
    #[arg(long, value_name = "MONTH")]
    month: Option<Month>,
    /// Only of this organisation
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// Organisations to list at most
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub(super) async fn run(args: UsageArgs) -> Result<(), CliError> {
    let UsageArgs { month, org, limit, common } = args;
    let read = async |s: &Subsystems| {
        let month = month.unwrap_or_else(|| Month::of(s.clock.now()));
        analytics::usage(s, month, org, None, limit).await
    };
    let found = common.existing(read).await?;
    common.output.write(&found.data, |rows| lines(rows, usage_line))?;
    Ok(())
}

fn usage_line(usage: &UsageView) -> String {
    let UsageView { org_id, name, month, events, bytes, delivered, dead } = usage;
    format!(
        "{org_id}  {name}  {month}  events: {events}  bytes: {bytes}  delivered: {delivered}  dead: {dead}"
    )
}
