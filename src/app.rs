//! The composition root: builds every part from the settings, and runs them.
//!
//! The only place that knows a backend, and the only one that knows both ends of the hand-over
//! between ingest and delivery.

mod admin;
mod deliveries;
mod first_start;
mod tenancy;
mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

pub use admin::{Admin, AdminError, NewEndpoint};
pub use first_start::FirstStart;
use tenancy::Tenancy;

use crate::auth::Authenticator;
use crate::config::{Config, JournalConfig, StoreConfig};
use crate::delivery::{self, DeliveryError, SuspendedOrgs};
use crate::http::{self, Api, AppState, Tls, TlsError};
use crate::ingest::{Handoff, Intake, Replayer, Workers};
use crate::journal::{
    Disk, Journal, JournalError, JournalOptions, JournalReader, QUEUE_BYTES_MAX, Recovery,
    SystemDisk,
};
use crate::limit::RateLimiter;
use crate::runtime::{Background, Clock, CpuLoad, Lifecycle, Shutdown, Wake};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{MigrateError, SharedStore, StoreError};
use crate::telemetry::Metrics;

const MIB: u64 = 1024 * 1024;

/// A server that is built and listening, and not yet running.
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    api: Api,
    authenticator: Authenticator,
    lifecycle: Lifecycle,
    journal: Journal,
    store: SharedStore,
    first_start: Option<FirstStart>,
    shutdown_timeout: Duration,
    /// Kept for as long as anything may run on it.
    _background: Background,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `DATABASE_URL` names something that is not PostgreSQL.
    #[error("DATABASE_URL must start with postgres:// or postgresql://; unset it for SQLite")]
    Scheme,
    /// `DATA_DIR` is not there and cannot be created.
    #[error("cannot create the data directory {}: {error}", .path.display())]
    DataDir {
        /// `DATA_DIR`.
        path: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The SQLite file cannot be opened.
    #[error("cannot open {}: {error}", .path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's answer.
        error: StoreError,
    },
    /// PostgreSQL cannot be reached, or refuses.
    #[error("cannot connect to the database that DATABASE_URL names: {0}")]
    Postgres(#[source] StoreError),
    /// Two metrics share a name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Why it is not known that every secret in the store can be read.
#[derive(Debug, thiserror::Error)]
pub enum MissingKeysError {
    /// Some cannot: `SECRETS_KEY` is not set, or lacks a key.
    #[error(
        "SECRETS_KEY lacks what {texts} secrets in the store are encrypted by, keys {ids}; list those \
         keys after the first one"
    )]
    Missing {
        /// How many.
        texts: i64,
        /// The ids of the keys, with commas between them.
        ids: String,
    },
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a server could not be built, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store failed at the start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Endpoints' secrets are encrypted by keys that are not there.
    #[error(transparent)]
    MissingKeys(#[from] MissingKeysError),
    /// The schema could not be brought up to date.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The first organisation and keys could not be made.
    #[error(transparent)]
    FirstStart(#[from] AdminError),
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The webhook client could not be built.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address could not be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// `HOST` and `PORT`.
        address: SocketAddr,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The journal's settings contradict each other.
    #[error("JOURNAL_MAX_MIB ({max}) must be at least twice JOURNAL_SEGMENT_MIB ({segment})")]
    JournalSize {
        /// `JOURNAL_MAX_MIB`.
        max: u64,
        /// `JOURNAL_SEGMENT_MIB`.
        segment: u64,
    },
    /// The background threads could not be started.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// The blocking pool is shutting down.
    #[error("the start was abandoned: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
    /// A part ended by itself.
    #[error("{0} ended unexpectedly; see the log")]
    PartFailed(&'static str),
}

impl App {
    /// Opens the store and the journal, builds every part and starts to listen. Nothing is answered
    /// before [`Self::run`].
    pub async fn build(config: &Config, clock: Clock) -> Result<Self, AppError> {
        let metrics = new_metrics().map_err(OpenError::Metrics)?;
        let tls = read_certificate(config).await?;
        let background = Background::start().map_err(AppError::Threads)?;
        let store = open_store_on(&background, &config.store, Arc::clone(&metrics)).await?;
        bring_up_to_date(&store, &clock).await?;
        let (listener, address) = listen(config).await?;
        let (journal, reader) =
            open_journal(&config.store, &config.journal, Arc::clone(&metrics)).await?;

        let lifecycle = Lifecycle::new();
        let behind = lifecycle.in_background(&background);
        let instance = journal.instance();
        let released = store.release_leases_across_orgs(instance, clock.now()).await?;
        if released > 0 {
            tracing::info!(released, "took up deliveries that the last run left in flight");
        }
        let (channels, handoff) = delivery::handoff(&config.delivery);
        let (wake, replays) = (Wake::new(), Wake::new());
        let suspended = suspended_orgs(&store).await?;
        let running = delivery::start(
            &config.delivery,
            Arc::clone(&store),
            clock.clone(),
            Arc::clone(&metrics),
            delivery::DeliveryInputs {
                handoff,
                wake: wake.clone(),
                instance,
                suspended: suspended.clone(),
                resolver: Arc::new(delivery::SystemResolver),
            },
            &behind,
        )?;
        // Nothing can fail from here on, so keys that are made are shown.
        let first_start = FirstStart::prepare(
            &store,
            clock.now(),
            base_url(tls.as_deref(), address),
            config.limit.rate_limit_per_minute,
        );
        let first_start = first_start.await?;
        let lease_span = delivery::lease_span(&config.delivery);
        let replayer = Replayer {
            store: Arc::clone(&store),
            clock: clock.clone(),
            wake: replays.clone(),
            planned: wake.clone(),
        };
        behind.spawn("replayer", replayer.run(lifecycle.shutdown()));
        let (shut, planned) = (running.handle.backpressured(), wake.clone());
        let delivery::HandoffSenders { express, bulk } = channels;
        let handoff = Handoff { express, bulk, shut, wake: planned, instance, lease_span };
        let workers = Workers::new(
            &config.ingest,
            (journal.clone(), reader),
            CpuLoad::of(Handle::current()),
            Arc::clone(&store),
            handoff,
            clock.clone(),
            Arc::clone(&metrics),
        );
        let backlog = workers.backlog();
        workers.start(config.ingest.worker_count(), &behind);

        let authenticator = Authenticator::new(
            &config.auth,
            Arc::clone(&store),
            clock.clone(),
            Arc::clone(&metrics),
        );
        let tenancy = Tenancy {
            store: Arc::clone(&store),
            clock: clock.clone(),
            authenticator: authenticator.clone(),
            suspended,
            poll_interval: config.auth.auth_poll_interval,
        };
        tenancy.start(&lifecycle, &behind);
        lifecycle
            .spawn("upkeep", upkeep::run(Arc::clone(&store), clock.clone(), lifecycle.shutdown()));
        behind.spawn("checkpoints", upkeep::checkpoint(Arc::clone(&store), lifecycle.shutdown()));

        let api = Api::new(AppState::new(
            config,
            http::Parts {
                store: Arc::clone(&store),
                authenticator: authenticator.clone(),
                limiter: RateLimiter::new(&config.limit),
                intake: Intake::new(journal.clone(), clock.clone()),
                delivery: running.handle,
                wake,
                replays,
                vitals: running.health,
                backlog,
                metrics,
                clock,
                background: background.handle(),
                shutdown: lifecycle.shutdown(),
            },
        ));
        Ok(Self {
            listener,
            address,
            tls,
            api,
            authenticator,
            lifecycle,
            journal,
            store,
            first_start,
            shutdown_timeout: config.server.shutdown_timeout,
            _background: background,
        })
    }

    /// Where it listens; with `PORT=0`, the port it was given.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the very first start made.
    pub const fn first_start(&self) -> Option<&FirstStart> {
        self.first_start.as_ref()
    }

    /// Reads the certificate again, and logs whether that went well; `None` without TLS. Blocks.
    pub fn certificate_reload(&self) -> Option<impl Fn() + Clone + Send + use<>> {
        let tls = Arc::clone(self.tls.as_ref()?);
        Some(move || match tls.reload() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        })
    }

    /// What stops it.
    pub fn shutdown(&self) -> Shutdown {
        self.lifecycle.shutdown()
    }

    /// Answers requests until the soft stop, then stops in the order of the way of one event: no new
    /// connections, requests in flight answered, the journal drained into the store, deliveries under
    /// way finished. What is not done by `SHUTDOWN_TIMEOUT` stays in the journal and in the store.
    pub async fn run(self) -> Result<(), AppError> {
        tracing::info!(address = %self.address, "listening");
        let shutdown = self.lifecycle.shutdown();
        let journal = self.journal.clone();
        let serving = http::serve(self.listener, self.tls, self.api, shutdown.clone());
        self.lifecycle.spawn("http", async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "cannot accept connections");
            }
            journal.close();
        });

        shutdown.requested().await;
        let drained = self.lifecycle.drain(self.shutdown_timeout).await;
        if let Err(error) = self.authenticator.flush_usage().await {
            tracing::warn!(%error, "what was used in the last minute is not written down");
        }
        let journal = self.journal;
        tokio::task::spawn_blocking(move || journal.shut_down()).await?;
        self.store.close().await;
        if drained {
            tracing::info!("stopped");
        } else {
            tracing::warn!(
                timeout = ?self.shutdown_timeout,
                "stopped at SHUTDOWN_TIMEOUT; the rest is taken up at the next start"
            );
        }
        match self.lifecycle.failure() {
            Some(part) => Err(AppError::PartFailed(part)),
            None => Ok(()),
        }
    }
}

/// Opens the store the settings name, without touching its schema.
pub(crate) async fn open_store(
    config: &StoreConfig,
    metrics: Arc<Metrics>,
) -> Result<SharedStore, OpenError> {
    match &config.database_url {
        None => {
            create_data_dir(config)?;
            let path = config.sqlite_path();
            let opened = SqliteStore::open(&path, config, metrics).await;
            Ok(Arc::new(opened.map_err(|error| OpenError::Sqlite { path, error })?))
        }
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            let connected = PostgresStore::connect(url, config, metrics).await;
            Ok(Arc::new(connected.map_err(OpenError::Postgres)?))
        }
        Some(_) => Err(OpenError::Scheme),
    }
}

fn create_data_dir(config: &StoreConfig) -> Result<(), OpenError> {
    let path = &config.data_dir;
    std::fs::create_dir_all(path).map_err(|error| OpenError::DataDir { path: path.clone(), error })
}

/// Opens the store where its threads and its connections' tasks are to run.
async fn open_store_on(
    background: &Background,
    config: &StoreConfig,
    metrics: Arc<Metrics>,
) -> Result<SharedStore, AppError> {
    let config = config.clone();
    let opening = async move { open_store(&config, metrics).await };
    Ok(background.handle().spawn(opening).await??)
}

/// Makes the store ready for this version: its schema, its keys, its partitions.
async fn bring_up_to_date(store: &SharedStore, clock: &Clock) -> Result<(), AppError> {
    let applied = store.migrate_up().await?;
    if applied > 0 {
        tracing::info!(applied, "brought the database schema up to date");
    }
    require_keys(store).await?;
    store.maintain_across_orgs(clock.now()).await?;
    Ok(())
}

/// Refuses to go on without all keys: a server would fail deliveries one by one instead, and the
/// command line would write secrets that the server cannot read.
async fn require_keys(store: &SharedStore) -> Result<(), MissingKeysError> {
    let missing = store.missing_keys_across_orgs().await?;
    if missing.is_empty() {
        return Ok(());
    }
    let texts = missing.iter().map(|key| key.texts).sum();
    let ids: Vec<String> = missing.into_iter().map(|key| key.id).collect();
    Err(MissingKeysError::Missing { texts, ids: ids.join(", ") })
}

/// For whom nothing is sent, before anything is.
async fn suspended_orgs(store: &SharedStore) -> Result<SuspendedOrgs, StoreError> {
    let suspended = SuspendedOrgs::default();
    suspended.set(store.paused_across_orgs().await?);
    Ok(suspended)
}

fn new_metrics() -> Result<Arc<Metrics>, prometheus::Error> {
    Metrics::new().map(Arc::new)
}

/// What clients on this machine call.
fn base_url(tls: Option<&Tls>, address: SocketAddr) -> String {
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// Reads the certificate, if the settings name one.
async fn read_certificate(config: &Config) -> Result<Option<Arc<Tls>>, AppError> {
    let (Some(cert), Some(key)) = (&config.server.tls_cert, &config.server.tls_key) else {
        return Ok(None);
    };
    let (cert, key) = (cert.clone(), key.clone());
    let tls = tokio::task::spawn_blocking(move || Tls::read(&cert, &key)).await??;
    Ok(Some(Arc::new(tls)))
}

async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), AppError> {
    let address = SocketAddr::new(config.server.host, config.server.port);
    let failed = |error| AppError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Recovery reads the segments that are left, so it happens off the async threads.
async fn open_journal(
    store: &StoreConfig,
    config: &JournalConfig,
    metrics: Arc<Metrics>,
) -> Result<(Journal, JournalReader), AppError> {
    let (max, segment) = (config.journal_max_mib, config.journal_segment_mib);
    if max / 2 < segment {
        return Err(AppError::JournalSize { max, segment });
    }
    let options = JournalOptions {
        dir: store.journal_dir(),
        segment_bytes: config.journal_segment_mib * MIB,
        bytes_max: config.journal_max_mib * MIB,
        queue_capacity: config.queue_capacity as usize,
        queue_bytes_max: QUEUE_BYTES_MAX,
    };
    let opening = move || {
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        Journal::open(&options, &disk, &metrics)
    };
    let (journal, reader, recovery) = tokio::task::spawn_blocking(opening).await??;
    log_recovery(&recovery);
    Ok((journal, reader))
}

/// Tells the operator what was found: nothing is lost in silence.
fn log_recovery(recovery: &Recovery) {
    if recovery.items > 0 {
        tracing::info!(events = recovery.items, "events wait in the journal from the last run");
    }
    if recovery.torn_bytes > 0 {
        tracing::info!(bytes = recovery.torn_bytes, "cut an unacknowledged tail off the journal");
    }
    for damage in &recovery.damage {
        tracing::error!(?damage, "the journal is damaged: what was there was kept aside");
    }
    for file in &recovery.foreign {
        tracing::warn!(file = %file.display(), "not a file of this journal; left alone");
    }
}
