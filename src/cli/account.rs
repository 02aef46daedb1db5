//! Commands on a tenant's accounts: `account`.

use clap::{Subcommand, ValueEnum};

use super::CliError;
use super::erasure::erase;
use super::output::lines;
use super::store::Common;
use crate::api::accounts::{self, SummaryWindow};
use crate::api::views::{AccountSummary, AccountView};
use crate::api::{Subsystems, orgs};
use crate::domain::{ErasureSubject, OrgId, PageRequest, Timestamp};

#[derive(Subcommand, Debug)]
pub(super) enum AccountCommand {
    /// List an organisation's accounts, most recently active first
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// Accounts to list at most
        #[arg(long, default_value_t = PageRequest::LIMIT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(PageRequest::LIMIT_MAX)))]
        limit: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Erase every event of an account until now for good; a running server does it in the background
    Erase {
        /// The organisation that it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The account, as its events name it
        account: String,
        #[command(flatten)]
        common: Common,
    },
    /// Show what an account has sent: events by type, and its most active users
    Summary {
        /// The organisation that it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The account
        account: String,
        /// The window, which ends now
        #[arg(long, value_enum, default_value_t = Window::Last24h, conflicts_with = "from")]
        window: Window,
        /// Instead of a window: events from this time on, to the minute
        #[arg(long, value_name = "TIME")]
        from: Option<Timestamp>,
        /// Events before this time; by default until now
        #[arg(long, value_name = "TIME", requires = "from")]
        to: Option<Timestamp>,
        /// Users to show at most
        #[arg(long, default_value_t = SummaryWindow::TOP_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(SummaryWindow::TOP_MAX)))]
        top: u32,
        #[command(flatten)]
        common: Common,
    },
}

/// A window that ends now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Window {
    /// The last 24 hours
    #[value(name = "last_24h")]
    Last24h,
    /// The last seven days
    #[value(name = "last_7d")]
    Last7d,
}

/// Runs a command on accounts.
pub(super) async fn run(command: AccountCommand) -> Result<(), CliError> {
    match command {
        AccountCommand::List { org, limit, common } => {
            let list = async |s: &Subsystems| {
                orgs::existing(s, org).await?;
                accounts::list(s, org, None, limit).await
            };
            let found = common.existing(list).await?;
            common.output.write(&found.data, |rows| lines(rows, account_line))?;
        }
        AccountCommand::Erase { org, account, common } => {
            erase(org, ErasureSubject::Account(account), &common).await?;
        }
        AccountCommand::Summary { org, account, window, from, to, top, common } => {
            let summarise = async |s: &Subsystems| {
                orgs::existing(s, org).await?;
                let window = match (from, window) {
                    (Some(from), _) => {
                        SummaryWindow::between(from, to.unwrap_or_else(|| s.clock.now()))?
                    }
                    (None, Window::Last24h) => SummaryWindow::Last24Hours,
                    (None, Window::Last7d) => SummaryWindow::Last7Days,
                };
                accounts::summary(s, org, &account, window, top).await
            };
            let summary = common.existing(summarise).await?;
            common.output.write(&summary, summary_text)?;
        }
    }
    Ok(())
}

fn account_line(account: &AccountView) -> String {
    let AccountView { account_id, events, bytes, first_seen, last_seen } = account;
    format!("{account_id}  events: {events}  bytes: {bytes}  {first_seen} to {last_seen}")
}

fn summary_text(summary: &AccountSummary) -> String {
    let AccountSummary { account_id, from, to, totals, top_users, approximate, .. } = summary;
    let about = if *approximate { "  approximate" } else { "" };
    let head = format!("{account_id}  {from} to {to}{about}");
    let types = totals.iter().map(|(name, events)| format!("  {name}: {events}"));
    let users = top_users.iter().map(|top| format!("  user {}: {}", top.user_id, top.events));
    std::iter::once(head).chain(types).chain(users).collect::<Vec<_>>().join("\n")
}
