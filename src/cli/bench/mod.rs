//! `hookgate bench`: measures a server, honestly.
//!
//! # Purpose
//! Answer "how fast is it here?" and "did this change make it slower?" without another tool, and put
//! every figure beside a server that does nothing but answer, measured in the same minutes.
//!
//! # Operation
//! A scenario is run after a warm-up, several times; the run with the median rate is reported. The
//! closed loop keeps every connection busy and asks how much the server can take. The open loop
//! sends at a fixed rate whatever the answers do, and counts latency from the moment a request was
//! due, so that a slow answer is charged for the requests it held up (no coordinated omission).
//! Without `--url` it starts this very program as a server of its own, in a process of its own and on
//! a directory that is removed afterwards; then it knows the server's CPU time too.
//!
//! # Failure
//! Answers other than the one a scenario expects are counted as errors and shown. Load goes where
//! `--url` says, and nowhere else; every run ends by itself.

mod compare;
mod connection;
mod end_to_end;
mod load;
mod peer;
mod report;
mod server;
mod store;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::CliError;
use super::output::print_line;
use crate::config::parse_duration;
use load::{Load, Target};
use report::{Measured, Report, Run};
use server::Server;

/// Measure a running server, or one of its own
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Print how two result files differ; exit 1 when B is slower than A by more than the threshold
    Compare(compare::CompareArgs),
    /// The server that does nothing but answer 202, for --peer-bare
    #[command(hide = true)]
    Bare,
}

#[derive(Args, Clone, Debug)]
struct RunArgs {
    /// What to measure; more than one may be given
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ingest")]
    scenario: Vec<Scenario>,
    /// The server to measure; without it one of its own is started and stopped
    #[arg(long, requires = "api_key")]
    url: Option<String>,
    /// A tenant's key of that server, with a rate limit above the load
    #[arg(long, env = "API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The database of the own server; without it SQLite
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, conflicts_with = "url")]
    database_url: Option<String>,
    /// Where the own server's directory is made and removed again; unset: the system's place
    #[arg(long, conflicts_with = "url")]
    work_dir: Option<PathBuf>,
    /// Connections, each with one request under way at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests a second, evenly spaced (open loop); without it as many as are answered (closed loop)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// How long a run takes
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// How long each scenario is run first, unmeasured
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Runs of each scenario, of which the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Bytes in an event's payload
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=262_144))]
    payload_bytes: u32,
    /// Events in a request of ingest-batch
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// Measure the bare handler in turn with each scenario, this many pairs
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5", conflicts_with = "url",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    peer_bare: Option<u32>,
    /// Measure plain inserts of the same rows in turn with each scenario, this many pairs; needs
    /// --database-url
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5",
          requires = "database_url", conflicts_with = "peer_bare",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    peer_unnest: Option<u32>,
    /// Write the results there as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scenario {
    /// POST /api/events, one event a request
    Ingest,
    /// POST /api/events/batch, --batch events a request
    IngestBatch,
    /// GET /api/health
    Health,
    /// GET /metrics
    Metrics,
    /// POST /api/events/batch until everything is stored
    Store,
    /// From POST to the webhook's arrival at a receiver of the bench's own
    EndToEnd,
}

/// Does what `hookgate bench` was asked.
pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    match args.command {
        Some(BenchCommand::Compare(args)) => compare::run(&args),
        Some(BenchCommand::Bare) => peer::serve_bare().await,
        None => measure(&args.run).await,
    }
}

async fn measure(args: &RunArgs) -> Result<(), CliError> {
    let mut reports = Vec::new();
    for scenario in &args.scenario {
        // A server of its own for each scenario, so that none runs on what another has stored.
        let server = Server::start(args).await?;
        let report = match (args.peer_bare, args.peer_unnest) {
            (Some(pairs), _) => measure_beside_bare(args, *scenario, &server, pairs).await,
            (None, Some(pairs)) => measure_beside_unnest(args, *scenario, &server, pairs).await,
            (None, None) => measure_scenario(args, *scenario, &server).await,
        };
        server.stop().await;
        let report = report?;
        print_line(&report.to_string())?;
        reports.push(report);
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&reports)?;
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

async fn measure_scenario(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
) -> Result<Report, CliError> {
    one_run(args, scenario, server, args.warm_up).await?;
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        let run = one_run(args, scenario, server, args.duration).await?;
        progress(&format!("{number}/{} {run}", args.runs));
        runs.push(run);
    }
    Ok(Report::new(scenario, args, runs))
}

/// Runs the scenario and the bare handler in turn: A B A B …, so that what the machine does beside
/// this touches both alike.
async fn measure_beside_bare(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    pairs: u32,
) -> Result<Report, CliError> {
    let bare = Server::start_bare().await?;
    one_run(args, scenario, server, args.warm_up).await?;
    one_run(args, scenario, &bare, args.warm_up).await?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for number in 1..=pairs {
        let run = one_run(args, scenario, server, args.duration).await?;
        server.settle().await;
        let peer = one_run(args, scenario, &bare, args.duration).await?;
        progress(&format!("{number}/{pairs} {run} | bare {peer}"));
        ours.push(run);
        theirs.push(peer);
    }
    bare.stop().await;
    Ok(Report::beside("bare handler", scenario, args, ours, theirs))
}

/// Runs the scenario and plain inserts into the same database in turn.
async fn measure_beside_unnest(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    pairs: u32,
) -> Result<Report, CliError> {
    let url = args.database_url.as_deref().ok_or("--peer-unnest needs --database-url")?;
    one_run(args, scenario, server, args.warm_up).await?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for number in 1..=pairs {
        let run = one_run(args, scenario, server, args.duration).await?;
        server.settle().await;
        let peer = store::run_unnest(args, url, args.duration).await?;
        let peer = Run::new(peer, store::unnest_rows(), None);
        progress(&format!("{number}/{pairs} {run} | unnest {peer}"));
        ours.push(run);
        theirs.push(peer);
    }
    Ok(Report::beside("plain unnest", scenario, args, ours, theirs))
}

async fn one_run(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    duration: Duration,
) -> Result<Run, CliError> {
    let load = Load { connections: args.connections, rate: args.rate, duration };
    let cpu_before = server.cpu_seconds();
    let (measured, events_per_request) = match scenario {
        Scenario::EndToEnd => (end_to_end::run(args, server, load).await?, 1),
        Scenario::Store => (store::run(args, server, load).await?, args.batch),
        Scenario::IngestBatch => {
            (load.run(&Target::new(scenario, args, server)).await?, args.batch)
        }
        Scenario::Ingest | Scenario::Health | Scenario::Metrics => {
            (load.run(&Target::new(scenario, args, server)).await?, 1)
        }
    };
    let cpu_seconds = server.cpu_seconds().zip(cpu_before).map(|(after, before)| after - before);
    Ok(Run::new(measured, events_per_request, cpu_seconds))
}

/// Shows a line to a person who waits; programs that read the answer are not disturbed.
#[expect(clippy::print_stderr, reason = "progress belongs on the terminal, not in the answer")]
fn progress(line: &str) {
    use std::io::IsTerminal;
    if std::io::stderr().is_terminal() {
        eprintln!("{line}");
    }
}
