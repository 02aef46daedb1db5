//! The real server in this process, with a clock that the test moves, checked when it is dropped.
//!
//! It runs on a thread and a runtime of its own, so that dropping it can wait for the graceful stop. Then these
//! invariants must hold:
//! - no background task has failed;
//! - no delivery is leased, since nobody works on it any more;
//! - the journal is drained, if the background work ran.
//!
//! A test that leaves work on purpose says so with [`TestApp::expect_leftover`].
//!
//! A test reaches the database through a store of its own, as another process would. A connection of the
//! server's pool that a test has used returns to the pool on the test's runtime, which stands still while it
//! waits for the stop; what must use the server's pool runs by [`TestApp::call`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use clap::Parser;
use hookgate::app::{App, AppError, AppParts, BackgroundWork, HeldParts, Metrics};
use hookgate::config::Config;
use hookgate::domain::Timestamp;
use hookgate::runtime::{Clock, Shutdown, Stopwatch};
use hookgate::store::Store;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// The moment every test starts at: 2026-01-31T12:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_micros(1_769_860_800_000_000);
/// A graceful stop that takes longer hangs.
const STOP_MAX: Duration = Duration::from_mins(1);

/// A running server.
pub(crate) struct TestApp {
    pub(crate) address: SocketAddr,
    pub(crate) parts: AppParts,
    /// Another store on the server's database.
    pub(crate) store: Store,
    background: BackgroundWork,
    runtime: Handle,
    shutdown: Shutdown,
    ended: Mutex<Receiver<Ended>>,
    leftovers: Mutex<BTreeMap<Leftover, &'static str>>,
    dir: TempDir,
}

/// Work that a test may leave behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Leftover {
    /// Leased deliveries.
    Leases,
    /// Events in the journal.
    Journal,
}

/// A server that has started.
struct Started {
    address: SocketAddr,
    parts: AppParts,
    held: Option<HeldParts>,
    runtime: Handle,
    shutdown: Shutdown,
}

/// A server that has stopped.
struct Ended {
    result: Result<(), AppError>,
    leases: i64,
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

impl TestApp {
    /// Starts a server on an empty SQLite store, without a first organisation, with these flags, such as
    /// `--request-timeout=50ms`. Parts are returned if their work is held.
    pub(crate) async fn start(
        flags: &[&str],
        background: BackgroundWork,
    ) -> (Self, Option<HeldParts>) {
        let dir = crate::support::temporary::directory();
        let config = config(dir.path(), flags);
        let store_config = config.store.clone();
        let (started, has_started) = oneshot::channel();
        let (ended, has_ended) = channel();
        thread::spawn(move || run(&config, background, started, &ended));
        let Started { address, parts, held, runtime, shutdown } = has_started.await.unwrap();
        let metrics = Metrics::new().unwrap().store;
        let file = store_config.sqlite_path();
        let store = Store::open_sqlite(&file, &store_config, metrics).await.unwrap();
        let (ended, leftovers) = (Mutex::new(has_ended), Mutex::default());
        let app =
            Self { address, parts, store, background, runtime, shutdown, ended, leftovers, dir };
        (app, held)
    }

    /// Runs a call of one of the server's parts on the server's runtime.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> T {
        self.runtime.spawn(call).await.unwrap()
    }

    /// The SQLite file.
    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("hookgate.db")
    }

    /// Begins the graceful stop. Dropping the server waits for its end.
    pub(crate) fn request_stop(&self) {
        self.shutdown.request();
    }

    /// Lets work be left behind, and says why.
    pub(crate) fn expect_leftover(&self, leftover: Leftover, reason: &'static str) {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).insert(leftover, reason);
    }

    fn check(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let Ended { result, leases } = ended.recv_timeout(STOP_MAX).expect("it does not stop");
        result.expect("a part of the server failed");
        let leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
        if !leftovers.contains_key(&Leftover::Leases) {
            assert_eq!(leases, 0, "deliveries are leased, and nobody works on them");
        }
        if self.drains(&leftovers) {
            assert_eq!(self.parts.journal.status().items_waiting, 0, "the journal is not drained");
        }
    }
}

impl TestApp {
    /// Whether the journal is to be empty at the end.
    fn drains(&self, leftovers: &BTreeMap<Leftover, &'static str>) -> bool {
        self.background == BackgroundWork::Run && !leftovers.contains_key(&Leftover::Journal)
    }

    /// Waits until the journal is drained, which a stopping server does not do.
    fn drain(&self) {
        let leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
        let since = Stopwatch::start();
        while self.drains(&leftovers)
            && !self.shutdown.is_requested()
            && self.parts.journal.status().items_waiting > 0
            && since.elapsed() < STOP_MAX
        {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.drain();
        }
        self.shutdown.request();
        if !thread::panicking() {
            self.check();
        }
    }
}

/// Runs a server to its end, on this thread.
fn run(
    config: &Config,
    background: BackgroundWork,
    started: oneshot::Sender<Started>,
    ended: &Sender<Ended>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let builder = App::builder(config).clock(Clock::manual(START)).background(background);
        let mut app = builder.without_bootstrap().build().await.unwrap();
        let held = app.take_held_parts();
        let (address, parts, shutdown) = (app.address(), app.parts(), app.shutdown());
        // A test that has failed meanwhile does not listen any more, here and below.
        let runtime = Handle::current();
        let _ = started.send(Started { address, parts, held, runtime, shutdown });
        let result = app.run().await;
        let leases = leases_held(&config.store.sqlite_path()).await;
        let _ = ended.send(Ended { result, leases });
    });
}

/// Counts the leased deliveries in a SQLite file.
async fn leases_held(database: &Path) -> i64 {
    let mut connection = SqliteConnectOptions::new().filename(database).connect().await.unwrap();
    let count = "SELECT count(*) FROM pending_deliveries WHERE lease_token IS NOT NULL";
    sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap()
}

/// The default settings with any free port, a small journal, and these flags.
pub(crate) fn config(dir: &Path, flags: &[&str]) -> Config {
    let data_dir = format!("--data-dir={}", dir.display());
    let base = [
        "--host=127.0.0.1",
        "--port=0",
        "--journal-segment-mib=8",
        "--journal-max-mib=32",
        // Tests make changes faster than people do.
        "--write-rate-limit-per-minute=10000000",
        "--read-rate-limit-per-minute=10000000",
        &data_dir,
    ];
    let name = |flag: &str| flag.split('=').next().map(str::to_owned);
    let own: Vec<_> = flags.iter().map(|flag| name(flag)).collect();
    let base = base.into_iter().filter(|flag| !own.contains(&name(flag)));
    Flags::parse_from(["hookgate"].into_iter().chain(base).chain(flags.iter().copied())).config
}
