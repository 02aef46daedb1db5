//! The `hookgate` binary: parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;
use hookgate::cli::{self, Cli};

/// The system's allocator took an eighth of the server's CPU time under load; see
/// PERFORMANCE_OPTIMIZATIONS.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before the arguments are parsed, since their defaults come from the environment.
    if let Err(message) = read_env_file() {
        return fail(&message);
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the async runtime: {error}")),
    };
    match runtime.block_on(cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// Reads `.env` of the working directory and of no other: one further up belongs to something else.
fn read_env_file() -> Result<(), String> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // The line may hold a password, so only its name is told.
        Err(dotenvy::Error::LineParse(line, _)) => {
            let name = line.split_once('=').map_or("of no setting", |(name, _)| name.trim());
            let help = "write NAME=value, a value with spaces or # in quotes";
            Err(format!(".env: cannot read the line {name}; {help}"))
        }
        Err(error) => Err(format!(".env: {error}")),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn fail(message: &str) -> ExitCode {
    eprintln!("hookgate: {message}");
    ExitCode::FAILURE
}
