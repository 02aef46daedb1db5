//! `hookgate serve`.

use std::io::IsTerminal;

use tokio::signal::unix::{SignalKind, signal};

use super::CliError;
use super::output::print_line;
use super::signals::Signals;
use crate::app::{App, Bootstrap};
use crate::config::Config;
use crate::runtime::Shutdown;
use crate::telemetry::init_logs;

/// The file of the first keys in the data directory, when there is no terminal to show them on.
const FIRST_KEYS: &str = "first-keys.txt";

/// Runs the server until SIGTERM or SIGINT, or until a part of it fails.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    init_logs(&config.telemetry, config.otlp.logs_url().is_some())?;
    // Keys in the output of a service end up in a log.
    let keys_file =
        (!std::io::stdout().is_terminal()).then(|| config.store.data_dir.join(FIRST_KEYS));
    let mut app = App::builder(config).keys_file(keys_file).build().await?;
    stop_on_signals(app.shutdown())?;
    reload_on_hangup(app.certificate_reload())?;
    if let Some(bootstrap) = app.bootstrap() {
        show(bootstrap)?;
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

/// Shows the first keys on the terminal, or tells their file.
fn show(bootstrap: &Bootstrap) -> std::io::Result<()> {
    let Some(file) = bootstrap.keys_file() else { return print_line(&bootstrap.to_string()) };
    tracing::info!(file = %file.display(), "the first API keys are in a file; keep them, then delete it");
    Ok(())
}

/// Prints the first keys as soon as the store is back and they are created.
fn print_once_created(created: impl Future<Output = Option<Bootstrap>> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "ends when the server's tasks do")]
    tokio::spawn(async move {
        if let Some(bootstrap) = created.await
            && let Err(error) = show(&bootstrap)
        {
            tracing::error!(%error, "cannot print the first keys; create others by the command line");
        }
    });
}
