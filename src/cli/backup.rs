//! `hookgate backup`.

use std::path::PathBuf;

use clap::Args;

use super::CliError;
use super::store::Common;
use crate::app::backup::{self, Backup};
use crate::runtime::Clock;

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// The directory of the backup: empty, or created
    dir: PathBuf,
    /// Copy the journal only; back up the database by other means afterwards, never before
    #[arg(long)]
    journal_only: bool,
    #[command(flatten)]
    common: Common,
}

/// Makes a backup.
pub(super) async fn run(args: BackupArgs) -> Result<(), CliError> {
    let BackupArgs { dir, journal_only, common } = args;
    let now = Clock::system().now();
    let made = backup::back_up(&common.store, &dir, journal_only, now).await?;
    common.output.write(&made, |made| text(made, &dir))?;
    Ok(())
}

fn text(made: &Backup, dir: &std::path::Path) -> String {
    let Backup { stored_below_position, segments, damaged_segments, database, .. } = made;
    let database = database.unwrap_or("without the database");
    let damage = match damaged_segments.as_slice() {
        [] => String::new(),
        names => format!("\nbytes that could not be read are not in it: {}", names.join(", ")),
    };
    format!(
        "backup in {}: journal with {segments} segments, stored below position {stored_below_position}; {database}{damage}",
        dir.display()
    )
}
