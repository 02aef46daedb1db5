//! Logging to standard error, so that standard output has only answers.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Error as ReloadError};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::otlp::LogExportLayer;
use crate::config::{LogFormat, TelemetryConfig};

/// Which lines are logged: a level, or levels per module. It shows at least errors of this program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFilter(String);

impl LogFilter {
    /// The rule that it keeps.
    pub const RULE: &str = "must be a level, such as info, or levels per module, such as hookgate=debug,sqlx=warn, and \
                            show errors of hookgate";
    /// Most bytes.
    pub const BYTES_MAX: usize = 1024;

    fn filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > Self::BYTES_MAX {
            return Err(format!("has more than {} bytes", Self::BYTES_MAX));
        }
        EnvFilter::try_new(text).map_err(|error| format!("cannot parse {text:?}: {error}"))?;
        if shows_nothing(text) {
            return Err(format!(
                "{text:?} shows no line of hookgate, not even its errors; use a level, such as info, or hookgate=info"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The filter of a process that logs, and how it is replaced.
struct RunningFilter {
    now: Mutex<LogFilter>,
    replace: Box<ReplaceFilter>,
}

type ReplaceFilter = dyn Fn(EnvFilter) -> Result<(), ReloadError> + Send + Sync;

static RUNNING: OnceLock<RunningFilter> = OnceLock::new();

/// The filter of this process; `None` if it does not log.
pub fn log_filter() -> Option<LogFilter> {
    RUNNING.get().map(|running| running.now.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// Replaces the filter of this process until its end. A process that does not log goes on not to.
pub fn set_log_filter(filter: LogFilter) {
    let Some(running) = RUNNING.get() else { return };
    let mut now = running.now.lock().unwrap_or_else(PoisonError::into_inner);
    // Fails when the subscriber is gone, and with it every line.
    if (running.replace)(filter.filter()).is_ok() {
        *now = filter;
    }
}

/// Starts logging to standard error, and to the collector if `exports` and once [`OtlpExport`](super::OtlpExport) has
/// started. Only the first call in a process has an effect.
///
/// # Errors
/// When the filter is invalid, or shows no line of this program.
pub fn init_logs(config: &TelemetryConfig, exports: bool) -> Result<(), String> {
    let filter: LogFilter = config.log.parse().map_err(|error| format!("RUST_LOG: {error}"))?;
    // Colours are for people; in a file or a pipe they are noise.
    let is_terminal = std::io::stderr().is_terminal();
    let colours = is_terminal && std::env::var_os("NO_COLOR").is_none();
    let is_text = match config.log_format {
        LogFormat::Auto => is_terminal,
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // If standard error is closed, the subscriber would report that with `eprintln!`, which panics
        // in the task that logs. Losing the line is the lesser evil.
        .log_internal_errors(false)
        .with_ansi(colours);
    let lines = if is_text { lines.boxed() } else { lines.json().flatten_event(true).boxed() };
    let (filtering, handle) = reload::Layer::new(filter.filter());
    let subscriber = tracing_subscriber::registry()
        .with(filtering)
        .with(lines)
        .with(exports.then(LogExportLayer::new));
    // Fails if logging was started before, which the doc above promises to ignore.
    if subscriber.try_init().is_ok() {
        let replace = Box::new(move |filter| handle.reload(filter));
        let _ = RUNNING.set(RunningFilter { now: Mutex::new(filter), replace });
    }
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
