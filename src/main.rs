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
    match dotenvy::dotenv() {
        Ok(_) => {}
        Err(error) if error.not_found() => {}
        Err(error) => return fail(&format!(".env: {error}")),
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

#[expect(clippy::print_stderr, reason = "the last word of a command that failed")]
fn fail(message: &str) -> ExitCode {
    eprintln!("hookgate: {message}");
    ExitCode::FAILURE
}
