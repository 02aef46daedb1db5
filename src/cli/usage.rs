//! The command `usage`.

use clap::Args;
use reqwest::{Method, StatusCode};
use serde_json::value::RawValue;

use super::CliError;
use super::api::{print_page, with_query};
use super::output::{Output, lines};
use super::server::{ApiServer, ServerError};
use super::store::Common;
use super::target::TargetArgs;
use crate::api::views::UsageView;
use crate::api::{Subsystems, analytics};
use crate::domain::{Month, OrgId, Timestamp};
use crate::runtime::Clock;

/// What the command takes.
#[derive(Args, Debug)]
pub(super) struct UsageArgs {
    /// The month in UTC, as in 2026-01; by default the current one
    #[arg(long, value_name = "MONTH")]
    month: Option<Month>,
    /// Only of this organisation; with the key of an operator
    #[arg(long, value_name = "ID")]
    org: Option<OrgId>,
    /// Organisations to list at most
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: u32,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    common: Common,
}

/// Runs the command.
pub(super) async fn run(args: UsageArgs) -> Result<(), CliError> {
    let UsageArgs { month, org, limit, target, common } = args;
    if target.is_given() {
        return of_server(&target.server()?, (month, org, limit), common.output).await;
    }
    let read = async |s: &Subsystems| {
        let month = month.unwrap_or_else(|| Month::of(s.clock.now()));
        analytics::usage(s, month, org, None, limit).await
    };
    let found = common.existing(read).await?;
    common.output.write(&found.data, |rows| lines(rows, usage_line))?;
    Ok(())
}

/// Prints what the organisation of the key used, day by day, or for an operator what organisations did.
async fn of_server(
    server: &ApiServer,
    (month, org, limit): (Option<Month>, Option<OrgId>, u32),
    output: Output,
) -> Result<(), CliError> {
    let now = Clock::system().now();
    let month = month.unwrap_or_else(|| Month::of(now));
    let from: Timestamp = format!("{month}-01T00:00:00Z").parse()?;
    let to = Month::end(from).min(now).max(from);
    let days = [
        ("group_by", Some("day".to_owned())),
        ("from", Some(from.to_string())),
        ("to", Some(to.to_string())),
    ];
    if org.is_none() {
        let path = with_query("/api/analytics/events", &days);
        match server.call::<Box<RawValue>>(Method::GET, &path, None).await {
            // An operator's key reads no events.
            Err(ServerError::Refused { status: StatusCode::FORBIDDEN, .. }) => {}
            answer => {
                let fields = ["group", "events", "bytes", "delivered", "dead"];
                print_page(&answer?, output, &fields)?;
                return Ok(());
            }
        }
    }
    let orgs = [
        ("month", Some(month.to_string())),
        ("org_id", org.map(|org| org.to_string())),
        ("limit", Some(limit.to_string())),
    ];
    let path = with_query("/api/admin/usage", &orgs);
    let answer = server.call::<Box<RawValue>>(Method::GET, &path, None).await?;
    print_page(
        &answer,
        output,
        &["org_id", "name", "month", "events", "bytes", "delivered", "dead"],
    )?;
    Ok(())
}

fn usage_line(usage: &UsageView) -> String {
    let UsageView { org_id, name, month, events, bytes, delivered, dead } = usage;
    format!(
        "{org_id}  {name}  {month}  events: {events}  bytes: {bytes}  delivered: {delivered}  dead: {dead}"
    )
}
