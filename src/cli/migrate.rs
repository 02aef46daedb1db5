//! Commands on the database schema: `migrate`.

use std::io::{self, IsTerminal, Write};

use clap::Subcommand;
use serde::Serialize;

use super::CliError;
use super::output::{lines, note};
use super::store::Common;
use crate::app::admin::{self, MigrationStatus};

#[derive(Subcommand, Debug)]
pub(super) enum MigrateCommand {
    /// Apply every missing migration
    Up(Common),
    /// Revert the newest migration; data in what it added is lost
    Down(Common),
    /// List migrations and whether each is applied
    Status(Common),
}

#[derive(Serialize)]
struct Applied {
    applied: usize,
}

#[derive(Serialize)]
struct Reverted {
    version: Option<i64>,
}

/// Runs a command on the schema.
pub(super) async fn run(command: MigrateCommand) -> Result<(), CliError> {
    match command {
        MigrateCommand::Up(common) => {
            let answer = Applied { applied: admin::migrate_up(&common.store).await? };
            common.output.write(&answer, |a| format!("{} migrations applied", a.applied))?;
        }
        MigrateCommand::Down(common) => {
            let all = admin::migration_status(&common.store).await?;
            if let Some(newest) = all.iter().rfind(|step| step.applied) {
                let MigrationStatus { version, name, rollback_loses, .. } = newest;
                note(&format!("Reverting migration {version}, {name}, loses: {rollback_loses}"));
            }
            if !common.store.yes && !confirmed()? {
                return Err("nothing was reverted; --yes reverts without asking".into());
            }
            let answer = Reverted { version: admin::migrate_down(&common.store).await? };
            common.output.write(&answer, |a| match a.version {
                Some(version) => format!("migration {version} reverted"),
                None => "no migration is applied".to_owned(),
            })?;
        }
        MigrateCommand::Status(common) => {
            let all = admin::migration_status(&common.store).await?;
            common.output.write(&all, |all| lines(all, status_line))?;
        }
    }
    Ok(())
}

fn status_line(step: &MigrationStatus) -> String {
    let MigrationStatus { version, name, applied, rollback_loses } = step;
    let mark = if *applied { "applied" } else { "missing" };
    format!("{version:>4}  {mark}  {name:<22}  a rollback loses: {rollback_loses}")
}

/// Asks on the terminal. Without one the answer is no.
fn confirmed() -> io::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    write!(io::stderr(), "Revert it? [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
