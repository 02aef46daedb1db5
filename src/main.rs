//! The `hookgate` binary: parse, run, exit code.

use std::io::Write;
use std::process::ExitCode;

use hookgate::cli::{self, Cli};

/// The system's allocator took an eighth of the server's CPU time under load, and a tenth of SQLite's,
/// whose C code calls this one too (the crate's feature `override`); see PERFORMANCE_OPTIMIZATIONS.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before the arguments are parsed, since their defaults come from the environment.
    if let Err(message) = read_env_file() {
        return fail(&message);
    }
    keep_files_private();
    let cli = Cli::read();
    use_small_pages();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the async runtime: {error}")),
    };
    let ended = runtime.block_on(cli::run(cli));
    // What still blocks a thread, such as a disk that does not answer, is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

/// What the process makes, its owner alone can read: files 0600, directories 0700.
fn keep_files_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Keeps the system from backing the allocator's memory with pages of 2 MiB, of which an idle server
/// would use a part, and hold a third more memory.
fn use_small_pages() {
    // On failure the server only uses more memory.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Reads `.env` in the working directory only: one in a parent directory belongs to something else.
fn read_env_file() -> Result<(), String> {
    match dotenvy::from_path(".env") {
        Ok(()) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // The line may hold a password, so the message has only its number.
        Err(dotenvy::Error::LineParse(part, _)) => {
            let text = std::fs::read_to_string(".env").unwrap_or_default();
            let number = 1 + text.lines().take_while(|line| !line.contains(&part)).count();
            Err(format!(".env: line {number} is not NAME=value; put spaces, # and $ in '…'"))
        }
        Err(error) => Err(format!(".env: {error}")),
    }
}

/// Prints why a command failed. If standard error is closed, the exit code is all there is.
fn fail(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "hookgate: {message}");
    ExitCode::FAILURE
}
