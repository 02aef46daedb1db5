//! Bootstrap: a first start creates an operator's key, and in an empty store an organisation with a key, so that a
//! newcomer can post at once.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::AppError;
use crate::api::Refusal;
use crate::auth::{IssuedKey, PresentedKey, SessionToken, adopt_key, issue_key, new_link};
use crate::config::{BootstrapConfig, BootstrapKey};
use crate::domain::{Actor, ApiKey, ConsoleSession, Org, OrgId, PageRequest, Role, Timestamp};
use crate::store::{SessionHash, Store};

/// How long the first link to the console works.
const LINK_LASTS: Duration = Duration::from_hours(24);

/// How the keys of a first start are shown.
#[derive(Clone, Debug)]
pub enum ShowKeys {
    /// Written to this file.
    File(PathBuf),
    /// Given to this function, such as [`print_keys`].
    Terminal(fn(&str) -> io::Result<()>),
}

/// Prints the keys of a first start on standard output.
///
/// # Errors
/// When they cannot be written: then nobody sees them.
pub fn print_keys(keys: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{keys}")?;
    output.flush()
}

/// How a first start is done.
#[derive(Clone, Debug)]
pub(super) struct BootstrapOptions {
    /// Where the server answers, such as `http://127.0.0.1:3000`.
    pub(super) base_url: String,
    /// The server's default rate limit, which applies to the organisation.
    pub(super) events_per_minute: u32,
    /// How the keys are shown.
    pub(super) show: ShowKeys,
    /// The keys that the settings give.
    pub(super) given: GivenKeys,
}

/// Keys that the settings give. A missing one is made, and shown.
#[derive(Clone, Debug)]
pub(super) struct GivenKeys {
    /// `BOOTSTRAP_API_KEY`.
    tenant: Option<PresentedKey>,
    /// `BOOTSTRAP_OPERATOR_KEY`.
    operator: Option<PresentedKey>,
}

impl GivenKeys {
    /// Checks the format of the keys.
    pub(super) fn read(config: &BootstrapConfig) -> Result<Self, AppError> {
        let BootstrapConfig { bootstrap_api_key, bootstrap_operator_key } = config;
        let given = Self {
            tenant: given_key("BOOTSTRAP_API_KEY", bootstrap_api_key.as_ref())?,
            operator: given_key("BOOTSTRAP_OPERATOR_KEY", bootstrap_operator_key.as_ref())?,
        };
        match (&given.tenant, &given.operator) {
            (Some(tenant), Some(operator)) if tenant.id() == operator.id() => {
                Err(AppError::BootstrapKeysEqual)
            }
            _ => Ok(given),
        }
    }
}

fn given_key(
    setting: &'static str,
    key: Option<&BootstrapKey>,
) -> Result<Option<PresentedKey>, AppError> {
    let parsed = key.map(|key| key.reveal().trim().parse()).transpose();
    parsed.map_err(|_| AppError::BootstrapKey(setting))
}

/// What a first start created. Its `Display` is the only place that shows the keys.
#[derive(Debug)]
pub(super) struct Bootstrap {
    /// The first organisation and its API key; `None` in a store that has organisations or keys.
    tenant: Option<(Org, PresentedKey)>,
    operator_key: PresentedKey,
    /// Opens the console once; `None` where what is shown may be a log.
    link: Option<SessionToken>,
    options: BootstrapOptions,
}

impl Bootstrap {
    /// Creates what is missing: an operator's key in a store that never had one, and an organisation with a key in an
    /// empty store. `false` when nothing is. When several servers start on one empty store at once, one of them
    /// creates it.
    ///
    /// The keys are written down, or on the terminal, before they are in the store, so that none is kept that nobody was
    /// shown. Their file gets its name afterwards: keys in it are valid.
    pub(super) async fn prepare(
        store: &Store,
        now: Timestamp,
        options: BootstrapOptions,
    ) -> Result<bool, AppError> {
        if store.system().has_operator_key().await? {
            return Ok(false);
        }
        let one = PageRequest::first(1);
        let is_empty = store.system().orgs(one).await?.data.is_empty()
            && store.system().keys(one).await?.data.is_empty();
        let org = is_empty.then(|| Org::new(OrgId::FIRST, "First organisation", now));
        let given = &options.given;
        let name = "first operator key";
        let operator = issue(given.operator.clone(), Role::Operator, name, now).await?;
        let tenant = match &org {
            Some(org) => {
                let role = Role::Tenant(org.id);
                Some(issue(given.tenant.clone(), role, "first key", now).await?)
            }
            None => None,
        };
        let records: Vec<_> =
            tenant.iter().map(|key| &key.record).chain([&operator.record]).cloned().collect();
        let tenant = org.clone().zip(tenant).map(|(org, issued)| (org, issued.key));
        let mut created = Self { tenant, operator_key: operator.key, link: None, options };
        let link = created.make_link(&records, now)?;
        let unfinished = created.write_down()?;
        let system = store.system();
        let by = &Actor::SERVER;
        let show = || match created.options.show {
            ShowKeys::Terminal(show) => show(&created.to_string()),
            ShowKeys::File(_) => Ok(()),
        };
        let inserted =
            system.insert_first_keys(org.as_ref(), &records, link.as_ref(), by, show).await?;
        if !inserted.map_err(AppError::FirstKeysUnseen)? {
            unfinished.as_deref().map(remove);
            return Ok(false);
        }
        if let (Some(unfinished), Some(path)) = (&unfinished, created.keys_file()) {
            // The keys are valid from now on, whatever their file is called.
            let file = match fs::rename(unfinished, path) {
                Ok(()) => path,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot rename the file of the first API keys");
                    unfinished
                }
            };
            let file = file.display();
            tracing::info!(%file, "the first API keys are in a file; keep them, then delete it");
        }
        Ok(true)
    }

    /// The file that holds the keys, if they are in one. Keys from the settings are in none.
    fn keys_file(&self) -> Option<&Path> {
        let GivenKeys { tenant, operator } = &self.options.given;
        let all_are_given = operator.is_some() && (tenant.is_some() || self.tenant.is_none());
        match &self.options.show {
            ShowKeys::File(path) if !all_are_given => Some(path),
            ShowKeys::File(_) | ShowKeys::Terminal(_) => None,
        }
    }

    /// Makes the link to the console, of the organisation's key if there is one, and returns what is to be stored of it.
    fn make_link(
        &mut self,
        keys: &[ApiKey],
        now: Timestamp,
    ) -> Result<Option<(SessionHash, ConsoleSession)>, AppError> {
        let is_shown =
            matches!(self.options.show, ShowKeys::Terminal(_)) || self.keys_file().is_some();
        let Some(key) = keys.first().filter(|_| is_shown) else { return Ok(None) };
        let made = new_link(key.id, now, LINK_LASTS);
        let (token, hash, session) =
            made.map_err(|error| AppError::Bootstrap(Refusal::Random(error)))?;
        self.link = Some(token);
        Ok(Some((hash, session)))
    }

    /// Writes the keys to a file with a name of its own; `None` without a file.
    fn write_down(&self) -> Result<Option<PathBuf>, AppError> {
        let Some(path) = self.keys_file() else { return Ok(None) };
        let path = path.with_extension("new");
        let write = || -> io::Result<()> {
            let options =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
            let mut file = options?;
            writeln!(file, "{self}")?;
            file.sync_all()
        };
        match write() {
            Ok(()) => Ok(Some(path)),
            Err(error) => {
                // Nothing may be there, or something else.
                let _ = fs::remove_file(&path);
                Err(AppError::FirstKeys { path, error })
            }
        }
    }
}

/// Removes keys that are not in the store.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove keys that are not valid");
    }
}

async fn issue(
    given: Option<PresentedKey>,
    role: Role,
    name: &str,
    now: Timestamp,
) -> Result<IssuedKey, AppError> {
    let name = name.to_owned();
    let issued = match given {
        Some(key) => adopt_key(key, role, name, now).await,
        None => issue_key(role, name, now).await,
    };
    issued.map_err(|error| AppError::Bootstrap(error.into()))
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, operator_key, link, options } = self;
        let BootstrapOptions { base_url, events_per_minute, given, .. } = options;
        let operator_key = match given.operator {
            Some(_) => "as in BOOTSTRAP_OPERATOR_KEY",
            None => operator_key.reveal(),
        };
        let Some((org, tenant_key)) = tenant else {
            return write!(
                f,
                "This key is shown only now; keep it.

  operator key   {operator_key}
{}",
                shown_link(link.as_ref(), base_url)
            );
        };
        let (tenant_key, sent) = match given.tenant {
            Some(_) => ("as in BOOTSTRAP_API_KEY", "KEY"),
            None => (tenant_key.reveal(), tenant_key.reveal()),
        };
        let id = org.id;
        let is_shown = given.tenant.is_none() || given.operator.is_none();
        let keep = if is_shown { " These keys are shown only now; keep them." } else { "" };
        write!(
            f,
            "Hookgate started for the first time.{keep}

  organisation   {id}
  API key        {tenant_key}
  operator key   {operator_key}
{}
Post an event:

  curl -i {base_url}/api/events \\
    -H 'X-API-Key: {sent}' \\
    -H 'Content-Type: application/json' \\
    -d '{{\"type\":\"user.login\",\"payload\":{{\"user\":\"ada\"}}}}'

The organisation may post {events_per_minute} events per minute; above that the answer is 429. Whoever operates
this server can raise the limit:

  hookgate org update {id} --rate-limit-per-minute 60000
",
            shown_link(link.as_ref(), base_url)
        )
    }
}

/// The link to the console, as it is shown.
fn shown_link(link: Option<&SessionToken>, base_url: &str) -> String {
    let Some(link) = link.map(SessionToken::reveal) else { return String::new() };
    format!("\nOpen the console, once and within a day:\n\n  {base_url}/console/link/{link}\n")
}

#[cfg(test)]
mod tests {
    use super::super::storage;
    use super::*;
    use crate::config::StoreConfig;
    use crate::store::StoreMetrics;
    use crate::telemetry::Registry;

    #[tokio::test]
    async fn banner_names_the_rate_limit_and_the_command_that_raises_it() {
        let now = Timestamp::from_micros(1);
        let org = Org::new(OrgId::FIRST, "First organisation", now);
        let key = async || issue_key(Role::Operator, "key".to_owned(), now).await.unwrap().key;
        let base_url = "http://127.0.0.1:3000".to_owned();
        let (tenant_key, operator_key) = (key().await, key().await);
        let given = GivenKeys { tenant: None, operator: None };
        let show = ShowKeys::Terminal(print_keys);
        let options = BootstrapOptions { base_url, events_per_minute: 1234, show, given };
        let tenant = Some((org, tenant_key));
        let start = Bootstrap { tenant, operator_key, link: None, options };
        let banner = start.to_string();
        assert!(banner.contains("1234 events per minute"), "{banner}");
        let command = format!("hookgate org update {} --rate-limit-per-minute", OrgId::FIRST);
        assert!(banner.contains(&command), "{banner}");
    }

    #[tokio::test]
    async fn keys_that_cannot_be_shown_are_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig::in_directory(dir.path());
        let metrics = StoreMetrics::register(&Registry::new()).unwrap();
        let store = storage::open_store(&config, metrics).await.unwrap();
        store.migrate_up().await.unwrap();
        let start = async |show| {
            let given = GivenKeys { tenant: None, operator: None };
            let show = ShowKeys::Terminal(show);
            let base_url = "http://127.0.0.1:3000".to_owned();
            let options = BootstrapOptions { base_url, events_per_minute: 1, show, given };
            Bootstrap::prepare(&store, Timestamp::from_micros(1), options).await
        };
        let refused = start(|_| Err(io::ErrorKind::BrokenPipe.into())).await;
        assert!(matches!(refused, Err(AppError::FirstKeysUnseen(_))), "{refused:?}");
        assert!(!store.system().has_operator_key().await.unwrap());
        assert!(store.system().orgs(PageRequest::first(1)).await.unwrap().data.is_empty());
        let shown = start(|keys| {
            assert!(keys.contains("operator key   hg_"), "{keys}");
            Ok(())
        });
        assert!(shown.await.unwrap());
        assert!(store.system().has_operator_key().await.unwrap());
        assert!(!start(|_| panic!("nothing is made")).await.unwrap());
        store.close().await;
    }
}
