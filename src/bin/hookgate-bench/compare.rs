//! `hookgate-bench compare A B`.

use std::path::{Path, PathBuf};

use clap::Args;
use hookgate::cli::{CliError, print_line};

use crate::report::Report;
use crate::run::Run;

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Results to compare with, written by --json
    a: PathBuf,
    /// Results to compare, written by --json
    b: PathBuf,
    /// How much slower B may be, in per cent of requests per second
    #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
    threshold: f64,
    /// Let B be as slow as it is: fail only for answers of B that were not the expected ones. For results of different
    /// machines, of which the ratios to a peer say something
    #[arg(long, conflicts_with = "threshold")]
    any_speed: bool,
}

/// Prints the difference of every scenario that is in both files.
///
/// # Errors
/// When a file cannot be read, the files share no scenario, B has answered wrongly, or is slower by more than the threshold.
pub(crate) fn run(args: &CompareArgs) -> Result<(), CliError> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    let mut shared = 0;
    let (mut slower, mut wrong) = (Vec::new(), Vec::new());
    for old in &a {
        let Some(new) = b.iter().find(|new| new.scenario == old.scenario) else {
            continue;
        };
        shared += 1;
        let change = rate_change_percent(&old.median, &new.median);
        print_line(&format!(
            "{}: {:.0} -> {:.0} req/s ({change:+.1} %), p99 {:.2} -> {:.2} ms",
            old.scenario,
            old.median.requests_per_second,
            new.median.requests_per_second,
            old.median.p99_ms,
            new.median.p99_ms,
        ))?;
        if let (Some((peer, before)), Some((_, after))) = (old.rate_ratio(), new.rate_ratio()) {
            print_line(&format!("  ours / {peer}: {before} -> {after}"))?;
        }
        wrong.extend(new.wrong_answers().map(|all| format!("{} {all:?}", new.scenario)));
        if !args.any_speed && change < -args.threshold {
            slower.push(format!("{} {change:+.1} %", old.scenario));
        }
    }
    if !wrong.is_empty() {
        return Err(format!("B has wrong answers: {}", wrong.join(", ")).into());
    }
    match (shared, slower.as_slice()) {
        (0, _) => Err("the two files share no scenario".into()),
        (_, []) => Ok(()),
        (_, slower) => {
            Err(format!("slower by more than {} %: {}", args.threshold, slower.join(", ")).into())
        }
    }
}

fn rate_change_percent(old: &Run, new: &Run) -> f64 {
    if old.requests_per_second == 0.0 {
        return 0.0;
    }
    100.0 * (new.requests_per_second / old.requests_per_second - 1.0)
}

fn read(file: &Path) -> Result<Vec<Report>, CliError> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| named(&error))?;
    Ok(serde_json::from_str(&text).map_err(|error| named(&error))?)
}
