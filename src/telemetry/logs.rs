//! Sets up log lines on standard error, which leaves standard output to answers.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TelemetryConfig};

/// Sends log lines to standard error from now on. A second call changes nothing.
///
/// # Errors
/// When the filter cannot be parsed; the message names the directive.
pub fn init_logs(config: &TelemetryConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("RUST_LOG: cannot parse {:?}: {error}", config.log))?;
    // Colours are for people: in a file or a pipe they are noise.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Whoever read the log may have gone. The fault would be told by `eprintln!`, which panics
        // then, in whatever part wanted to say something; a lost line is the lesser evil.
        .log_internal_errors(false)
        .with_ansi(colours);
    // The second call in a process fails, which is what was promised.
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
