//! Commands on the journal: `journal`.

use std::io::{self, IsTerminal, Write};

use clap::Subcommand;
use serde::Serialize;

use super::CliError;
use super::store::Common;
use crate::app::journal_admin::{self, ReplayOptions, ReplayReport, ReplaySince};

#[derive(Subcommand, Debug)]
pub(super) enum JournalCommand {
    /// Show what the journal in DATA_DIR holds
    Status(Common),
    /// Store what the journal has and the database lacks, with the events that wait there; no server may run in DATA_DIR
    Replay {
        /// Begin with the events accepted at this time, or with the one at this position; default: the first that the
        /// database may lack. Events that wait are stored in any case
        #[arg(long, value_name = "TIME|POSITION")]
        since: Option<ReplaySince>,
        /// Count, and store nothing
        #[arg(long)]
        dry_run: bool,
        /// Give up events of organisations that the database does not have, as after an older backup; without this they
        /// are kept in the journal
        #[arg(long)]
        skip_unknown_orgs: bool,
        #[command(flatten)]
        common: Common,
    },
}

/// What a journal holds, as people and programs see it.
#[derive(Serialize)]
struct Status {
    oldest_position: u64,
    stored_below_position: u64,
    kept_segments: usize,
    kept_since: Option<String>,
    segments: usize,
}

/// Runs a command on the journal.
pub(super) async fn run(command: JournalCommand) -> Result<(), CliError> {
    match command {
        JournalCommand::Status(common) => {
            let extent = journal_admin::status(&common.store)?;
            let status = Status {
                oldest_position: extent.oldest,
                stored_below_position: extent.stored_below,
                kept_segments: extent.kept_segments,
                kept_since: extent.kept_since.map(|at| at.to_string()),
                segments: extent.segments,
            };
            common.output.write(&status, status_text)?;
        }
        JournalCommand::Replay { since, dry_run, skip_unknown_orgs, common } => {
            let options = ReplayOptions { since, dry_run, skip_unknown_orgs };
            let report = journal_admin::replay(&common.store, options, show_progress).await?;
            common.output.write(&report, |report| report_text(report, skip_unknown_orgs))?;
        }
    }
    Ok(())
}

fn status_text(status: &Status) -> String {
    let Status { oldest_position, stored_below_position, kept_segments, kept_since, segments } =
        status;
    let since = kept_since.as_deref().map_or(String::new(), |at| format!(" since {at}"));
    format!(
        "stored below position {stored_below_position}, oldest position {oldest_position}\n\
         {kept_segments} segments kept{since}, {segments} others"
    )
}

fn report_text(report: &ReplayReport, skips_unknown_orgs: bool) -> String {
    let ReplayReport {
        from,
        to,
        events,
        waiting,
        missing,
        deliveries,
        of_unknown_orgs,
        refused,
        ..
    } = report;
    let ReplayReport { dry_run, lost, complete, .. } = report;
    let what = if *dry_run { "missing" } else { "stored" };
    let next = match (dry_run, complete) {
        (_, true) => "the database has every event of the journal, and none waits",
        (_, false) if *of_unknown_orgs > 0 && !skips_unknown_orgs => {
            "the database does not have the organisations of all events: it is another one, or an older backup. Keep \
             DATA_DIR and correct DATABASE_URL; or repeat with --skip-unknown-orgs to give these events up"
        }
        (true, false) => "nothing was stored",
        (false, false) if *lost > 0 => {
            "the database lacks what is lost: start with `hookgate serve --accept-older-store`, which sets aside \
             what is damaged, and keep DATA_DIR until then"
        }
        (false, false) => {
            "events from before are not in the journal any more, or were not asked for: repeat without --since, or \
             start with `hookgate serve --accept-older-store`"
        }
    };
    format!(
        "positions {from} to {to}: {events} events, {waiting} of them waited, {missing} {what}, {deliveries} deliveries planned, \
         {of_unknown_orgs} of unknown organisations, {refused} refused, {lost} lost\n{next}"
    )
}

/// One line on a terminal.
fn show_progress(position: u64, end: u64) {
    if io::stderr().is_terminal() {
        // Nobody is harmed if it cannot be shown.
        let _ = write!(io::stderr(), "\rposition {position} of {end} ");
    }
}
