//! What operators do with the store directly: organisations, keys and endpoints.
//!
//! The command line's way in, and the first start's. It works beside a running server, which notices
//! changed keys by itself.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::{IssueError, IssuedKey, issue_key};
use crate::config::StoreConfig;
use crate::domain::{
    Actor, ApiKey, ApiKeyId, AuditEntry, Endpoint, EndpointChange, EndpointId, KeyRotationRefusal,
    NewEndpoint, Org, OrgChange, OrgId, OrgLimit, Page, PageRequest, Role, Scopes, SecretChoice,
    SecretRotationRefusal, Secrets, Violation,
};
use crate::runtime::Clock;
use crate::store::{
    AddRefusal, DeliveryRefusal, MigrateError, MigrationStatus, Resealed, Store, StoreError,
    StoreMetrics,
};
use crate::telemetry::Registry;

use super::storage::{self, MissingKeysError, OpenError, open_store, require_keys};

/// Why an endpoint is disabled that was disabled on the command line.
const DISABLED_BY_OPERATOR: &str = "disabled by the operator";

/// The shortest life of a key: while its hash is computed, one with less may end.
const KEY_LIFE_MIN: Duration = Duration::from_secs(1);

/// Manages what the store holds.
pub struct Admin {
    pub(super) store: Store,
    pub(super) clock: Clock,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The schema could not be changed.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// No key could be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// No secret could be made.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// A value breaks a rule.
    #[error("{} {}", .0.field, .0.message)]
    Invalid(Violation),
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// It cannot be done to that delivery.
    #[error(transparent)]
    Delivery(#[from] DeliveryRefusal),
    /// Endpoints' secrets are encrypted by keys that are not there.
    #[error(transparent)]
    MissingKeys(#[from] MissingKeysError),
    /// An endpoint's secret was not rotated.
    #[error(transparent)]
    SecretRotation(#[from] SecretRotationRefusal),
    /// A key was not rotated.
    #[error(transparent)]
    KeyRotation(#[from] KeyRotationRefusal),
    /// The organisation has all it may have.
    #[error("the organisation may have {most} {what}, and has them; see `hookgate org update`")]
    OverQuota {
        /// Of what.
        what: &'static str,
        /// How many.
        most: u32,
    },
    /// There is no SQLite file.
    #[error(
        "there is no {}; name its directory with --data-dir or DATA_DIR, or a PostgreSQL database \
         with DATABASE_URL",
        .0.display()
    )]
    NotSetUp(PathBuf),
    /// The schema is older than this program.
    #[error("the database lacks migrations; apply them with `hookgate migrate up`")]
    NotMigrated,
}

impl From<Violation> for AdminError {
    fn from(violation: Violation) -> Self {
        Self::Invalid(violation)
    }
}

impl Admin {
    /// Opens the store, created if there is none, and brings its schema up to date.
    pub async fn open(config: &StoreConfig) -> Result<Self, AdminError> {
        let admin = Self::open_as_it_is(config).await?;
        admin.migrate_up().await?;
        Ok(admin)
    }

    /// Opens a store that somebody has set up, and neither creates nor migrates anything: whoever
    /// asks in the wrong directory must not find an empty answer, and a new database, there.
    pub async fn open_existing(config: &StoreConfig) -> Result<Self, AdminError> {
        if let Some(file) = missing_file(config) {
            return Err(AdminError::NotSetUp(file));
        }
        let admin = Self::open_as_it_is(config).await?;
        if admin.migration_status().await?.iter().all(|migration| migration.applied) {
            return Ok(admin);
        }
        admin.close().await;
        Err(AdminError::NotMigrated)
    }

    /// Every migration, oldest first, of a store that may not be there yet.
    pub async fn status(config: &StoreConfig) -> Result<Vec<MigrationStatus>, AdminError> {
        if missing_file(config).is_some() {
            return Ok(storage::migrations_of_a_new_store());
        }
        let admin = Self::open_as_it_is(config).await?;
        let status = admin.migration_status().await;
        admin.close().await;
        status
    }

    /// Takes the newest migration of a store back and returns its version; `None` where none is
    /// applied.
    pub async fn migrate_down(config: &StoreConfig) -> Result<Option<i64>, AdminError> {
        if missing_file(config).is_some() {
            return Ok(None);
        }
        let admin = Self::open_as_it_is(config).await?;
        let version = admin.store.migrate_down().await;
        admin.close().await;
        Ok(version?)
    }

    /// Opens the store, created if there is none, and leaves its schema alone.
    pub async fn open_as_it_is(config: &StoreConfig) -> Result<Self, AdminError> {
        let metrics = StoreMetrics::register(&Registry::new()).map_err(OpenError::Metrics)?;
        Ok(Self::new(open_store(config, metrics).await?, Clock::system()))
    }

    /// Manages a store that is open.
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// Applies the migrations that are missing and returns how many that were.
    pub async fn migrate_up(&self) -> Result<usize, AdminError> {
        Ok(self.store.migrate_up().await?)
    }

    async fn migration_status(&self) -> Result<Vec<MigrationStatus>, AdminError> {
        Ok(self.store.migration_status().await?)
    }

    /// Creates an organisation.
    pub async fn create_org(
        &self,
        name: String,
        limits: Vec<(OrgLimit, Option<u32>)>,
    ) -> Result<Org, AdminError> {
        let now = self.clock.now();
        let mut org = Org::new(OrgId::mint(now), "", now);
        let change = OrgChange { name: Some(name), limits };
        check(&change)?;
        change.apply(&mut org);
        self.store.system().insert_org(&org, &Actor::CLI).await?;
        Ok(org)
    }

    /// Changes an organisation's name and limits.
    pub async fn update_org(&self, id: OrgId, change: &OrgChange) -> Result<Org, AdminError> {
        check(change)?;
        let changed = self.store.update_org(id, change, &Actor::CLI, self.clock.now()).await?;
        changed.ok_or_else(|| no_org(id))
    }

    /// Suspends an organisation, or ends that.
    pub async fn suspend_org(&self, id: OrgId, suspended: bool) -> Result<Org, AdminError> {
        let now = self.clock.now();
        let changed = self.store.suspend_org(id, suspended, &Actor::CLI, now).await?;
        changed.ok_or_else(|| no_org(id))
    }

    /// Has an organisation deleted by the servers that run, or that run next.
    pub async fn delete_org(&self, id: OrgId) -> Result<Org, AdminError> {
        let changed = self.store.delete_org(id, &Actor::CLI, self.clock.now()).await?;
        changed.ok_or_else(|| no_org(id))
    }

    /// One organisation, also one that is being deleted, or was.
    pub async fn org(&self, id: OrgId) -> Result<Org, AdminError> {
        self.store.org(id).await?.ok_or_else(|| no_org(id))
    }

    /// A page of the audit log, newest first: of one organisation, its creation and deletion with it,
    /// or all.
    pub async fn audit_log(
        &self,
        org: Option<OrgId>,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, AdminError> {
        Ok(match org {
            Some(org) => self.store.system().org_log(org, page).await?,
            None => self.store.system().audit_log(page).await?,
        })
    }

    /// A page of organisations, newest first.
    pub async fn orgs(&self, page: PageRequest) -> Result<Page<Org>, AdminError> {
        Ok(self.store.system().orgs(page).await?)
    }

    /// Creates a key, with all scopes of its role unless some are named, and for ever unless it has a
    /// time, of a second at least.
    pub async fn create_key(
        &self,
        role: Role,
        name: String,
        scopes: Option<Scopes>,
        expires_in: Option<Duration>,
    ) -> Result<IssuedKey, AdminError> {
        Org::check_name(&name)?;
        if expires_in.is_some_and(|span| span < KEY_LIFE_MIN) {
            return Err(Violation::new("expires_in", "range", "must be 1s at least").into());
        }
        let scopes = scopes.unwrap_or(role.scopes());
        if !role.scopes().include(scopes) {
            let message = format!("must be some of {}", role.scopes());
            return Err(Violation::new("scopes", "scope", message).into());
        }
        if let Some(org) = role.org_id() {
            self.require_org(org).await?;
        }
        let now = self.clock.now();
        let mut issued = issue_key(role, name, now).await?;
        issued.record.scopes = scopes;
        issued.record.expires_at = expires_in.map(|span| now.plus(span));
        let added = self.store.system().insert_key(&issued.record, &Actor::CLI).await?;
        added.map_err(|refusal| no_more("keys", refusal))?;
        Ok(issued)
    }

    /// One key.
    pub async fn key(&self, id: ApiKeyId) -> Result<ApiKey, AdminError> {
        self.store.system().key(id).await?.ok_or_else(|| no_key(id))
    }

    /// A page of keys, newest first: of one organisation, or all.
    pub async fn keys(
        &self,
        org: Option<OrgId>,
        page: PageRequest,
    ) -> Result<Page<ApiKey>, AdminError> {
        match org {
            Some(org) => {
                self.require_org(org).await?;
                Ok(self.store.keys(org, page).await?)
            }
            None => Ok(self.store.system().keys(page).await?),
        }
    }

    /// Replaces a key by a new one of the same name and role. The old one goes on working for `grace`,
    /// at most [`ApiKey::GRACE_SECONDS_MAX`].
    pub async fn rotate_key(&self, id: ApiKeyId, grace: Duration) -> Result<IssuedKey, AdminError> {
        ApiKey::check_grace(grace)?;
        let now = self.clock.now();
        let old = self.store.system().key(id).await?.ok_or_else(|| no_key(id))?;
        old.check_rotation(now).map_err(|refusal| not_rotated(id, refusal))?;
        let mut issued = issue_key(old.role, old.name, now).await?;
        issued.record.scopes = old.scopes;
        issued.record.expires_at = old.expires_at;
        // The hash took its time: the grace begins, and the old key must be good, now.
        let (new, now) = (&issued.record, self.clock.now());
        let rotated = self.store.system().rotate_key(id, grace, new, &Actor::CLI, now).await?;
        rotated.map_err(|refusal| not_rotated(id, refusal))?;
        Ok(issued)
    }

    /// Makes a key expire now.
    pub async fn revoke_key(&self, id: ApiKeyId) -> Result<(), AdminError> {
        let now = self.clock.now();
        let found = self.store.system().expire_key(id, now, &Actor::CLI, now).await?;
        if found { Ok(()) } else { Err(no_key(id)) }
    }

    /// Creates an endpoint.
    pub async fn add_endpoint(
        &self,
        org_id: OrgId,
        new: NewEndpoint,
    ) -> Result<Endpoint, AdminError> {
        self.require_org(org_id).await?;
        require_keys(&self.store).await?;
        new.check()?;
        let endpoint = new.into_endpoint(org_id, self.clock.now())?;
        let added = self.store.insert_endpoint(org_id, &endpoint, &Actor::CLI).await?;
        added.map_err(|refusal| no_more("endpoints", refusal))?;
        Ok(endpoint)
    }

    /// A page of an organisation's endpoints, newest first.
    pub async fn endpoints(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, AdminError> {
        self.require_org(org).await?;
        Ok(self.store.endpoints(org, page).await?)
    }

    /// Enables an endpoint, which makes its parked deliveries due, or disables it, which parks them.
    pub async fn switch_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        enabled: bool,
    ) -> Result<Endpoint, AdminError> {
        let reason = (!enabled).then(|| DISABLED_BY_OPERATOR.to_owned());
        let change = EndpointChange { disabled_reason: Some(reason), ..EndpointChange::default() };
        let changed =
            self.store.update_endpoint(org, id, &change, &Actor::CLI, self.clock.now()).await?;
        changed.ok_or_else(|| no_endpoint(org, id))
    }

    /// Puts a secret that is provided or made up in the place of an endpoint's, which goes on signing
    /// for `overlap`.
    pub async fn rotate_secret(
        &self,
        org: OrgId,
        id: EndpointId,
        secret: SecretChoice,
        overlap: Duration,
    ) -> Result<Endpoint, AdminError> {
        secret.check()?;
        Secrets::check_overlap(overlap)?;
        require_keys(&self.store).await?;
        let missing = || no_endpoint(org, id);
        let old = self.store.endpoint(org, id).await?.ok_or_else(missing)?;
        let scheme = old.secrets.as_ref().map(|secrets| secrets.current().scheme());
        let new = secret.secret(scheme.unwrap_or_default())?;
        let now = self.clock.now();
        let rotated = self.store.rotate_secret(org, id, &new, overlap, &Actor::CLI, now).await?;
        rotated.map_err(|refusal| match refusal {
            SecretRotationRefusal::NotFound => missing(),
            SecretRotationRefusal::TooManySecrets | SecretRotationRefusal::Undecryptable => {
                AdminError::SecretRotation(refusal)
            }
        })
    }

    /// Encrypts every endpoint's secrets by the first key of `SECRETS_KEY`, step by step. It may be
    /// broken off and begun anew; beside running servers that know the key already.
    pub async fn reencrypt(&self) -> Result<Resealed, AdminError> {
        let mut all = Resealed::default();
        loop {
            let step = self.store.system().reseal_secrets(all.next).await?;
            all.endpoints += step.endpoints;
            all.encrypted += step.encrypted;
            all.unreadable.extend(step.unreadable);
            all.next = step.next;
            if all.next.is_none() {
                return Ok(all);
            }
        }
    }

    /// Removes an endpoint and cancels its pending deliveries.
    pub async fn remove_endpoint(&self, org: OrgId, id: EndpointId) -> Result<(), AdminError> {
        if self.store.delete_endpoint(org, id, &Actor::CLI, self.clock.now()).await? {
            return Ok(());
        }
        Err(no_endpoint(org, id))
    }

    /// Closes the store.
    pub async fn close(&self) {
        self.store.close().await;
    }

    pub(super) async fn require_org(&self, id: OrgId) -> Result<(), AdminError> {
        match self.store.org(id).await? {
            Some(org) if org.deletion.is_none() => Ok(()),
            Some(_) | None => Err(no_org(id)),
        }
    }
}

/// The SQLite file that the settings name, if it is not there.
fn missing_file(config: &StoreConfig) -> Option<PathBuf> {
    let file = config.sqlite_path();
    (config.database_url.is_none() && !file.exists()).then_some(file)
}

fn check(change: &OrgChange) -> Result<(), Violation> {
    change.name.as_deref().map_or(Ok(()), Org::check_name)?;
    let mut set = change.limits.iter().filter_map(|(limit, value)| Some((limit, (*value)?)));
    set.try_for_each(|(limit, value)| limit.check(value))
}

fn no_org(id: OrgId) -> AdminError {
    AdminError::NotFound(format!("organisation {id}"))
}

fn no_more(what: &'static str, refusal: AddRefusal) -> AdminError {
    match refusal {
        AddRefusal::OverQuota(most) => AdminError::OverQuota { what, most },
        AddRefusal::OrgDeleted => AdminError::NotFound("such organisation any more".to_owned()),
    }
}

fn not_rotated(id: ApiKeyId, refusal: KeyRotationRefusal) -> AdminError {
    match refusal {
        KeyRotationRefusal::NotFound => no_key(id),
        KeyRotationRefusal::Inactive
        | KeyRotationRefusal::AlreadyRotated(_)
        | KeyRotationRefusal::OverQuota(_) => AdminError::KeyRotation(refusal),
    }
}

fn no_endpoint(org: OrgId, id: EndpointId) -> AdminError {
    AdminError::NotFound(format!("endpoint {id} of organisation {org}"))
}

fn no_key(id: ApiKeyId) -> AdminError {
    AdminError::NotFound(format!("key {id}"))
}
