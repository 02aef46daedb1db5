//! `hookgate-bench`: measures a Hookgate server.
//!
//! # Purpose
//! Answer "how fast is it here?" and "did this change make it slower?" without another tool, and
//! compare every figure with a server that only answers, measured in the same minutes. It is a
//! program of its own because operators do not need it.
//!
//! # Operation
//! A scenario runs several times after a warm-up; the run with the median rate is reported. The
//! closed loop keeps every connection busy and measures how much the server can take. The open loop
//! sends at a fixed rate, however slow the answers are, and counts latency from the time a request
//! was due, so that a slow answer is charged for the requests it held up (no coordinated omission).
//! Without `--url` it starts the `hookgate` program beside it, in a temporary directory; then it
//! measures the CPU time of the server, and of its PostgreSQL on the same machine, and the server's memory, too.
//! `--beside` measures what one organisation notices of others: each run alone alternates with one
//! beside a noisy neighbour.
//!
//! # Failure
//! Answers other than the expected one are counted as errors and shown. Load goes to the server of
//! `--url` and to no other; every run ends by itself. SIGINT and SIGTERM end it early, stop the
//! server and remove its directory and the endpoints; a second signal ends the process at once.

mod args;
mod arrivals;
mod bare;
mod client;
mod compare;
mod connection;
mod cpu;
mod disk;
mod drain;
mod end_to_end;
mod event_source;
mod inbox;
mod load;
mod measure;
mod memory;
mod name_server;
mod neighbour;
mod pacer;
mod peer;
mod program;
mod report;
mod reqwest_loop;
mod run;
mod server;
mod store;
mod table;
mod target;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use hookgate::cli::{CliError, Signals, with_environment};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use args::RunArgs;

/// The allocator of the server, so that the peers in this process have no disadvantage.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measure a Hookgate server, running or started for the measurement
#[derive(Parser)]
#[command(name = "hookgate-bench", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Print how two result files differ; exit 1 when B is slower than A by more than the threshold
    Compare(compare::CompareArgs),
    /// Serve the handler that only answers 202, for --peer-bare
    #[command(hide = true)]
    Bare,
}

impl Cli {
    /// Parses the command line and the variables, which have the names that `hookgate` reads: `HOOKGATE_API_KEY` too.
    fn read() -> Self {
        let command = with_environment(Self::command()).unwrap_or_else(|error| {
            Self::command().error(ErrorKind::ValueValidation, error).exit()
        });
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::read()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed, the exit code still tells.
            let _ = writeln!(std::io::stderr(), "hookgate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), CliError> {
    match cli.command {
        Some(Command::Compare(args)) => compare::run(&args),
        Some(Command::Bare) => bare::serve().await,
        None => {
            let mut signals = JoinSet::new();
            let stop = CancellationToken::new();
            signals.spawn(stop_on_signals(stop.clone())?);
            measure::measure(&cli.run, &stop).await
        }
    }
}

/// Cancels `stop` at SIGINT or SIGTERM, and ends the process at the second signal.
fn stop_on_signals(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send, CliError> {
    let mut signals = Signals::listen()?;
    Ok(async move {
        signals.next().await;
        stop.cancel();
        signals.next().await;
        std::process::exit(130);
    })
}
