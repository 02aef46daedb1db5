//! Commands on the database schema: `migrate`.

use clap::Subcommand;
use serde::Serialize;

use super::CliError;
use super::output::lines;
use super::store::Common;
use crate::app::admin;

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
            let answer = Reverted { version: admin::migrate_down(&common.store).await? };
            common.output.write(&answer, |a| match a.version {
                Some(version) => format!("migration {version} reverted"),
                None => "no migration is applied".to_owned(),
            })?;
        }
        MigrateCommand::Status(common) => {
            common.output.write(&admin::migration_status(&common.store).await?, |all| {
                lines(all, |m| {
                    let mark = if m.applied { "applied" } else { "missing" };
                    format!("{:>4}  {mark}  {}", m.version, m.name)
                })
            })?;
        }
    }
    Ok(())
}
