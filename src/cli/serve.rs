//! `hookgate serve`.

use std::io::IsTerminal;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::CliError;
use super::signals::Signals;
use crate::app::{App, ShowKeys, print_keys};
use crate::config::Config;
use crate::runtime::Shutdown;
use crate::telemetry::init_logs;

/// The file of the first keys in the data directory, when there is no terminal to show them on.
const FIRST_KEYS: &str = "first-keys.txt";

/// Runs the server until SIGTERM or SIGINT, or until a part of it fails.
pub(super) async fn run(config: &Config) -> Result<(), CliError> {
    init_logs(&config.telemetry, config.otlp.logs_url().is_some())?;
    let (built, is_built) = oneshot::channel();
    reload_on_hangup(signal(SignalKind::hangup())?, is_built);
    let show = if std::io::stdout().is_terminal() {
        ShowKeys::Terminal(print_keys)
    } else {
        // Keys in the output of a service end up in a log.
        ShowKeys::File(config.store.data_dir.join(FIRST_KEYS))
    };
    let mut signals = Signals::listen()?;
    // On the heap, so that a signal drops nothing of it: that could wait for a disk.
    let mut building = Box::pin(App::builder(config).first_keys(show).build());
    let app = tokio::select! {
        built = &mut building => built?,
        signal = signals.next() => stop_while_starting(signal),
    };
    stop_on_signals(signals, app.shutdown());
    // Its receiver lives as long as the process.
    let _ = built.send(app.certificate_reload());
    app.run().await?;
    Ok(())
}

/// Reloads the certificate on SIGHUP, once the server is built: a hang-up before is logged, and done then. Without TLS
/// there is nothing to reload. Without a listener SIGHUP would end the process.
fn reload_on_hangup<R: Fn() + Clone + Send + 'static>(
    mut hangups: Signal,
    built: oneshot::Receiver<Option<R>>,
) {
    #[expect(clippy::disallowed_methods, reason = "ends with the process and delays nothing")]
    tokio::spawn(async move {
        let (mut built, mut is_due) = (built, false);
        let reload = loop {
            tokio::select! {
                reload = &mut built => break reload,
                Some(()) = hangups.recv() => {
                    tracing::info!("SIGHUP: the server is starting");
                    is_due = true;
                }
            }
        };
        // Otherwise it could not be built.
        let Ok(reload) = reload else { return };
        while is_due || hangups.recv().await.is_some() {
            is_due = false;
            let Some(reload) = reload.clone() else {
                tracing::info!("SIGHUP: no certificate to reload, TLS is off");
                continue;
            };
            if tokio::task::spawn_blocking(reload).await.is_err() {
                tracing::error!("cannot reload the TLS certificate; keeping the current one");
            }
        }
    });
}

/// Ends the process before it has accepted anything. What it has opened is closed by the system, as after a kill: there
/// is nothing to finish, and a start may wait for a database or a disk.
fn stop_while_starting(signal: &str) -> ! {
    tracing::info!(
        signal,
        "stopping during the start; what the journal holds waits for the next one"
    );
    std::process::exit(0);
}

/// Requests the soft stop on SIGTERM or SIGINT. A second one ends the process at once, which loses
/// nothing that was acknowledged.
fn stop_on_signals(mut signals: Signals, shutdown: Shutdown) {
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
}
