//! The neighbour `keys`: a tenant that creates keys as fast as it can, and a client that presents unknown keys. Another
//! tenant creates a key now and then, alone and beside them, and how long that takes is noted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookgate::auth::PresentedKey;
use hookgate::cli::CliError;
use hookgate::domain::ApiKeyId;
use hookgate::runtime::{Clock, Stopwatch};
use http_body_util::Full;
use hyper::{Request, StatusCode};

use crate::client::ApiClient;
use crate::connection::Connection;
use crate::report::Measured;

use super::tasks::Tasks;
use super::tenant::Tenant;

/// Connections that create keys, and as many that present unknown ones.
const CONNECTIONS: usize = 50;
/// Keys that are created alone, before the neighbour starts.
const ALONE: usize = 5;
/// Pause between two keys of the healthy tenant.
const PAUSE: Duration = Duration::from_millis(200);
/// More keys than a run creates.
const KEYS_MAX: u32 = 1_000_000;

/// A healthy tenant, and how long its keys took.
pub(super) struct HealthyTenant {
    tenant: Tenant,
    alone: Measured,
    beside: Arc<Mutex<Measured>>,
}

impl HealthyTenant {
    /// Creates the tenant, and a few keys of it while nothing else happens.
    pub(super) async fn create(operator: &ApiClient) -> Result<Self, CliError> {
        let tenant = Tenant::create_with_keys(operator, KEYS_MAX).await?;
        let mut alone = Measured::new()?;
        for _ in 0..ALONE {
            create_key(&tenant.client, |key| record(&mut alone, key)).await;
        }
        Ok(Self { tenant, alone, beside: Arc::new(Mutex::new(Measured::new()?)) })
    }

    /// Creates a key now and then.
    pub(super) fn create_keys(&self) -> impl Future<Output = ()> + Send + use<> {
        let (client, beside) = (self.tenant.client.clone(), Arc::clone(&self.beside));
        async move {
            loop {
                create_key(&client, |key| record(&mut lock(&beside), key)).await;
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// How long the keys took.
    pub(super) fn note(&self) -> String {
        let text = |keys: &Measured| {
            format!(
                "{} times, p50 {:.2} ms, max {:.2} ms, errors {:?}",
                keys.count(),
                keys.quantile_ms(0.5),
                keys.quantile_ms(1.0),
                keys.errors(),
            )
        };
        let (alone, beside) = (text(&self.alone), text(&lock(&self.beside)));
        format!("POST /api/keys of another tenant: alone {alone}; beside {beside}")
    }
}

/// Starts the tenant that creates keys and the client that presents unknown ones.
pub(super) async fn start(load: &mut Tasks, operator: &ApiClient) -> Result<Tenant, CliError> {
    let tenant = Tenant::create_with_keys(operator, KEYS_MAX).await?;
    let authority = operator.authority().to_owned();
    for _ in 0..CONNECTIONS {
        load.spawn(flood(authority.clone(), Some(tenant.key.clone())));
        load.spawn(flood(authority.clone(), None));
    }
    Ok(tenant)
}

/// Asks for keys with this key, or presents unknown keys, until it is aborted.
async fn flood(authority: String, key: Option<String>) {
    loop {
        let Ok(mut connection) = Connection::open(&authority).await else { return };
        while let Some(request) = request(&authority, key.as_deref()) {
            // The answer does not matter: a neighbour is not measured.
            if connection.send(request).await.is_err() {
                break;
            }
        }
    }
}

fn request(authority: &str, key: Option<&str>) -> Option<Request<Full<hyper::body::Bytes>>> {
    let request = Request::builder().header("host", authority);
    let Some(key) = key else {
        let unknown = PresentedKey::generate(ApiKeyId::mint(Clock::system().now())).ok()?;
        let request = request.uri("/api/org").header("x-api-key", unknown.reveal());
        return request.body(Full::default()).ok();
    };
    let request = request.method("POST").uri("/api/keys").header("x-api-key", key);
    let request = request.header("content-type", "application/json");
    request.body(Full::from(r#"{"name":"flood"}"#)).ok()
}

/// What became of one key, and how long it took.
type Created = (Result<StatusCode, CliError>, Duration);

async fn create_key(client: &ApiClient, record: impl FnOnce(Created)) {
    let watch = Stopwatch::start();
    let answer = client.send("POST", "/api/keys", r#"{"name":"bench"}"#).await;
    record((answer.map(|(status, _)| status), watch.elapsed()));
}

fn record(keys: &mut Measured, (answer, took): Created) {
    match answer {
        Ok(StatusCode::CREATED) => keys.success(took),
        Ok(status) => keys.error(status.as_str()),
        Err(error) => keys.error(&error.to_string()),
    }
}

fn lock(keys: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}
