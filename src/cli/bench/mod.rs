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
//! `--url` says, and nowhere else; every run ends by itself. SIGINT and SIGTERM end it early, with the
//! server stopped, its directory and the endpoints removed; a second one ends it on the spot.

mod compare;
mod connection;
mod end_to_end;
mod load;
mod neighbour;
mod peer;
mod report;
mod reqwest_loop;
mod server;
mod store;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::CliError;
use super::output::print_line;
use super::signals::Signals;
use crate::config::{parse_duration, parse_wait};
use load::{Load, Target};
use neighbour::Neighbour;
use report::{Measured, Report, Run};
use server::Server;

/// Measure a running server, or one of its own
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Print how two result files differ; exit 1 when B is slower than A by more than the threshold
    Compare(compare::CompareArgs),
    /// The server that does nothing but answer 202, for --peer-bare
    #[command(hide = true)]
    Bare,
}

#[derive(Args, Clone)]
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
    /// The PostgreSQL database of the own server, where what is posted stays; without it SQLite.
    /// DATABASE_URL is not read: it may be the one in production
    #[arg(long, env = "BENCH_DATABASE_URL", hide_env_values = true, conflicts_with = "url")]
    database_url: Option<String>,
    /// Where the own server's directory is made and removed again; unset: the system's place
    #[arg(long, conflicts_with = "url")]
    work_dir: Option<PathBuf>,
    /// Connections, each with one request in flight at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Requests a second, evenly spaced (open loop); without it as many as are answered (closed loop)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// How long a run takes
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_wait)]
    duration: Duration,
    /// How long each scenario is run first, unmeasured
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Runs of each scenario, of which the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Bytes in an event's payload, or in the body of ingest-raw
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
    /// Measure a loop that posts with reqwest to receivers of the same kind, in turn with end-to-end,
    /// this many pairs
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5",
          conflicts_with_all = ["peer_bare", "peer_unnest"],
          value_parser = clap::value_parser!(u32).range(1..=100))]
    peer_reqwest: Option<u32>,
    /// Measure each scenario beside a bad neighbour and, in turn with it, alone, --runs pairs. Give
    /// a --rate, so that both have the same load
    #[arg(long, value_enum, conflicts_with_all = ["url", "peer_bare", "peer_unnest", "peer_reqwest"])]
    beside: Option<Neighbour>,
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
    /// POST /api/events/raw, a body of --payload-bytes bytes that is not JSON
    IngestRaw,
    /// GET /api/health
    Health,
    /// GET /metrics
    Metrics,
    /// POST /api/events/batch until everything is stored
    Store,
    /// From POST to the webhook's arrival at a receiver of the bench's own
    EndToEnd,
}

impl fmt::Display for Scenario {
    /// As it is written on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", clap::builder::PossibleValue::get_name))
    }
}

/// Does what `hookgate bench` was asked.
pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    match args.command {
        Some(BenchCommand::Compare(args)) => compare::run(&args),
        Some(BenchCommand::Bare) => peer::serve_bare().await,
        None => {
            let mut signals = JoinSet::new();
            let stop = CancellationToken::new();
            signals.spawn(stop_on_signals(stop.clone())?);
            measure(&args.run, &stop).await
        }
    }
}

async fn measure(args: &RunArgs, stop: &CancellationToken) -> Result<(), CliError> {
    if let Some(file) = &args.json {
        // Now rather than after the minutes that the measurement takes.
        check_directory(file)?;
    }
    if args.peer_reqwest.is_some() && args.scenario.iter().any(|one| *one != Scenario::EndToEnd) {
        return Err("--peer-reqwest is the peer of --scenario end-to-end only".into());
    }
    let mut reports = Vec::new();
    for scenario in &args.scenario {
        // A server of its own for each scenario, so that none runs on what another has stored.
        let server = unless_stopped(stop, Server::start(args)).await?;
        let report = measure_on(args, *scenario, &server, stop).await;
        server.stop().await;
        let report = report?;
        print_line(&report.to_string())?;
        reports.push(report);
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&reports)?;
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    match reports.iter().find(|report| !report.has_right_answers()) {
        None => Ok(()),
        Some(report) => Err(format!("{}: no request got the right answer", report.scenario).into()),
    }
}

fn check_directory(file: &Path) -> Result<(), CliError> {
    let directory = std::path::absolute(file)?.parent().map(Path::to_owned).unwrap_or_default();
    if directory.is_dir() {
        return Ok(());
    }
    Err(format!("--json: there is no directory {}", directory.display()).into())
}

/// Cancels `stop` at SIGINT or SIGTERM, and ends the process at the second one.
fn stop_on_signals(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send, CliError> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.next().await;
        stop.cancel();
        signals.next().await;
        std::process::exit(130);
    })
}

/// Waits for `work` and gives it up when the measurement is stopped.
async fn unless_stopped<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    tokio::select! {
        done = work => done,
        () = stop.cancelled() => Err("interrupted".into()),
    }
}

async fn measure_scenario(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    stop: &CancellationToken,
) -> Result<Report, CliError> {
    one_run(args, scenario, server, args.warm_up, stop).await?;
    let mut runs = Vec::new();
    for number in 1..=args.runs {
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        progress(&format!("{number}/{} {run}", args.runs));
        runs.push(run);
    }
    Ok(Report::new(scenario, args, runs))
}

/// What a scenario is measured in turn with.
enum Peer<'a> {
    /// The handler that does nothing but answer.
    Bare(Box<Server>),
    /// Plain inserts into this database.
    Unnest(&'a str),
    /// A loop that posts with reqwest.
    Reqwest,
}

impl Peer<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Bare(_) => "bare handler",
            Self::Unnest(_) => "plain unnest",
            Self::Reqwest => "bare reqwest loop",
        }
    }

    async fn run(
        &self,
        args: &RunArgs,
        scenario: Scenario,
        duration: Duration,
        stop: &CancellationToken,
    ) -> Result<Run, CliError> {
        match self {
            Self::Bare(server) => one_run(args, scenario, server, duration, stop).await,
            Self::Unnest(url) => {
                let measured = store::run_unnest(args, url, duration, stop).await?;
                Ok(Run::new(measured, u32::from(store::ROWS), None))
            }
            Self::Reqwest => Ok(Run::new(reqwest_loop::run(args, duration, stop).await?, 1, None)),
        }
    }

    async fn stop(self) {
        match self {
            Self::Bare(server) => server.stop().await,
            Self::Unnest(_) | Self::Reqwest => {}
        }
    }
}

async fn measure_on(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    stop: &CancellationToken,
) -> Result<Report, CliError> {
    if let Some(neighbour) = args.beside {
        return measure_beside(args, scenario, server, neighbour, stop).await;
    }
    let peer = match (args.peer_bare, args.peer_unnest, args.peer_reqwest) {
        (Some(pairs), _, _) => Some((Peer::Bare(Box::new(Server::start_bare().await?)), pairs)),
        (None, Some(pairs), _) => {
            args.database_url.as_deref().map(|url| (Peer::Unnest(url), pairs))
        }
        (None, None, Some(pairs)) => Some((Peer::Reqwest, pairs)),
        (None, None, None) => None,
    };
    let Some((peer, pairs)) = peer else {
        return measure_scenario(args, scenario, server, stop).await;
    };
    let name = peer.name();
    let measured = measure_pairs(args, scenario, (server, &peer), pairs, stop).await;
    peer.stop().await;
    let (ours, theirs) = measured?;
    Ok(Report::beside(name, scenario, args, ours, theirs))
}

/// Runs the scenario beside a bad neighbour and alone, in turn.
async fn measure_beside(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    neighbour: Neighbour,
    stop: &CancellationToken,
) -> Result<Report, CliError> {
    one_run(args, scenario, server, args.warm_up, stop).await?;
    let hashes_before = server.metric("auth_hashes_total").await?;
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    for number in 1..=args.runs {
        unless_stopped(stop, server.settle()).await?;
        alone.push(one_run(args, scenario, server, args.duration, stop).await?);
        unless_stopped(stop, server.settle()).await?;
        let trouble = neighbour.trouble(args, server).await?;
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        drop(trouble);
        progress(&format!("{number}/{} {run}", args.runs));
        beside.push(run);
    }
    let hashes = server.metric("auth_hashes_total").await? - hashes_before;
    print_line(&format!("beside the {neighbour:?}: {hashes} keys were hashed"))?;
    Ok(Report::beside("alone", scenario, args, beside, alone))
}

/// Runs the scenario and its peer in turn: A B A B …, so that what the machine does beside this
/// touches both alike.
async fn measure_pairs(
    args: &RunArgs,
    scenario: Scenario,
    (server, peer): (&Server, &Peer<'_>),
    pairs: u32,
    stop: &CancellationToken,
) -> Result<(Vec<Run>, Vec<Run>), CliError> {
    one_run(args, scenario, server, args.warm_up, stop).await?;
    peer.run(args, scenario, args.warm_up, stop).await?;
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for number in 1..=pairs {
        let run = one_run(args, scenario, server, args.duration, stop).await?;
        unless_stopped(stop, server.settle()).await?;
        let beside = peer.run(args, scenario, args.duration, stop).await?;
        progress(&format!("{number}/{pairs} {run} | {} {beside}", peer.name()));
        ours.push(run);
        theirs.push(beside);
    }
    Ok((ours, theirs))
}

async fn one_run(
    args: &RunArgs,
    scenario: Scenario,
    server: &Server,
    duration: Duration,
    stop: &CancellationToken,
) -> Result<Run, CliError> {
    let load = Load { connections: args.connections, rate: args.rate, duration };
    let cpu_before = server.cpu_seconds();
    let (measured, events_per_request) = match scenario {
        Scenario::EndToEnd => (end_to_end::run(args, server, load, stop).await?, 1),
        Scenario::Store => {
            (unless_stopped(stop, store::run(args, server, load)).await?, args.batch)
        }
        Scenario::IngestBatch => {
            let target = Target::new(scenario, args, server);
            (unless_stopped(stop, load.run(&target)).await?, args.batch)
        }
        Scenario::Ingest | Scenario::IngestRaw | Scenario::Health | Scenario::Metrics => {
            let target = Target::new(scenario, args, server);
            (unless_stopped(stop, load.run(&target)).await?, 1)
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
