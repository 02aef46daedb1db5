//! Logging to standard error, so that standard output has only answers.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Targets;

use crate::config::{LogFormat, TelemetryConfig};

/// Starts logging to standard error. Only the first call in a process has an effect.
///
/// # Errors
/// When the filter is invalid, or shows no line of this program.
pub fn init_logs(config: &TelemetryConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("RUST_LOG: cannot parse {:?}: {error}", config.log))?;
    if shows_nothing(&config.log) {
        return Err(format!(
            "RUST_LOG: {:?} shows no line of hookgate, not even its errors; use a level, such as info, or \
             hookgate=info",
            config.log
        ));
    }
    // Colours are for people; in a file or a pipe they are noise.
    let is_terminal = std::io::stderr().is_terminal();
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let is_text = match config.log_format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // If standard error is closed, the subscriber would report that with `eprintln!`, which panics
        // in the task that logs. Losing the line is the lesser evil.
        .log_internal_errors(false)
        .with_ansi(colours);
    // Fails if logging was started before, which the doc above promises to ignore.
    let _ =
        if is_text { builder.try_init() } else { builder.json().flatten_event(true).try_init() };
    Ok(())
}

/// Whether not even errors would be shown: a misspelt level is a filter for a module of that name. A filter with
/// spans or fields is left to whoever writes one.
fn shows_nothing(filter: &str) -> bool {
    let targets = filter.parse::<Targets>();
    targets.is_ok_and(|targets| !targets.would_enable(env!("CARGO_PKG_NAME"), &Level::ERROR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_that_shows_nothing_is_noticed() {
        for filter in ["off", "inof", "sqlx=debug", "hookgate=off,sqlx=info"] {
            assert!(shows_nothing(filter), "{filter:?}");
        }
        let shown =
            ["info", "ERROR", "sqlx=debug,info", "hookgate=warn", "hookgate[{org_id=7}]=debug"];
        for filter in shown {
            assert!(!shows_nothing(filter), "{filter:?}");
        }
    }
}
