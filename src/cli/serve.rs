//! `hookgate serve`.

use tokio::signal::unix::{SignalKind, signal};

use super::CliError;
use super::output::print_line;
use super::signals::Signals;
use crate::app::{App, Bootstrap};
use crate::config::Config;
use crate::runtime::{Clock, Shutdown};
use crate::telemetry::init_logs;

/// Runs the server until SIGTERM or SIGINT, or until a part of it fails.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    init_logs(&config.telemetry)?;
    let mut app = App::build(config, Clock::system()).await?;
    stop_on_signals(app.shutdown())?;
    reload_on_hangup(app.certificate_reload())?;
    if let Some(bootstrap) = app.bootstrap() {
        print_line(&bootstrap.to_string())?;
    }
    if let Some(created) = app.late_bootstrap() {
        print_once_created(created);
    }
    app.run().await?;
    Ok(())
}

/// Reloads the certificate on SIGHUP. Without TLS there is nothing to reload.
fn reload_on_hangup(reload: Option<impl Fn() + Clone + Send + 'static>) -> Result<(), CliError> {
    let mut hangups = signal(SignalKind::hangup())?;
    #[expect(clippy::disallowed_methods, reason = "ends with the process and delays nothing")]
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let Some(reload) = reload.clone() else {
                tracing::info!("SIGHUP: no certificate to reload, TLS is off");
                continue;
            };
            if tokio::task::spawn_blocking(reload).await.is_err() {
                tracing::error!("cannot reload the TLS certificate; keeping the current one");
            }
        }
    });
    Ok(())
}

/// Requests the soft stop on SIGTERM or SIGINT. A second one ends the process at once, which loses
/// nothing that was acknowledged.
fn stop_on_signals(shutdown: Shutdown) -> Result<(), CliError> {
    let mut signals = Signals::listen()?;
    #[expect(
        clippy::disallowed_methods,
        reason = "outlives every tracked task, to receive the second signal"
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

/// Prints the first keys as soon as the store is back and they are created.
fn print_once_created(created: impl Future<Output = Option<Bootstrap>> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "ends when the server's tasks do")]
    tokio::spawn(async move {
        if let Some(bootstrap) = created.await
            && let Err(error) = print_line(&bootstrap.to_string())
        {
            tracing::error!(%error, "cannot print the first keys; create others by the command line");
        }
    });
}
