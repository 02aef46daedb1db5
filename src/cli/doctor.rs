//! `hookgate doctor`: what a server of these settings would work with.

use clap::Args;

use super::CliError;
use super::output::{Output, lines};
use crate::app::doctor::{self, Finding, Judgement};
use crate::config::Config;

/// What the command takes: what `serve` takes, and how to answer.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Read a SQLite file whole and look for damage, which takes seconds for each GiB
    #[arg(long)]
    integrity: bool,
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    #[command(flatten)]
    config: Config,
}

/// Prints what was found. Fails if something keeps a server from working.
pub(super) async fn run(args: DoctorArgs) -> Result<(), CliError> {
    let findings = doctor::examine(&args.config, args.integrity).await;
    args.output.write(&findings, |findings| lines(findings, line))?;
    let failures = findings.iter().filter(|found| found.judgement == Judgement::Failure).count();
    if failures > 0 {
        return Err(format!("{failures} of {} checks failed", findings.len()).into());
    }
    Ok(())
}

fn line(finding: &Finding) -> String {
    let judgement = match finding.judgement {
        Judgement::Ok => "ok",
        Judgement::Warning => "warning",
        Judgement::Failure => "FAILED",
    };
    format!("{judgement:<8} {:<10} {}", finding.subject, finding.text)
}
