//! `hookgate serve`.

use super::CliError;
use super::output::print_line;
use super::signals::Signals;
use crate::app::App;
use crate::config::Config;
use crate::runtime::{Clock, Shutdown};
use crate::telemetry::init_logs;

/// Runs the server until SIGTERM or SIGINT, or until a part of it fails.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    init_logs(&config.telemetry)?;
    let app = App::build(config, Clock::system()).await?;
    stop_on_signals(app.shutdown())?;
    if let Some(first_start) = app.first_start() {
        print_line(&first_start.to_string())?;
    }
    app.run().await?;
    Ok(())
}

/// SIGTERM and SIGINT ask for the soft stop. A second one ends the process on the spot: nothing that
/// was acknowledged is lost by that.
fn stop_on_signals(shutdown: Shutdown) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "outlives every tracked part, to hear the second signal"
    )]
    tokio::spawn(async move {
        let signal = signals.next().await;
        shutdown.request();
        tracing::info!(signal, "stopping; once more to stop at once");
        let signal = signals.next().await;
        tracing::warn!(signal, "stopping at once; the rest stays in the journal");
        std::process::exit(130);
    });
    Ok(())
}
