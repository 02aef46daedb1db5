//! The endpoint cache: the endpoints of the organisations that are active on this server.
//!
//! It saves reads; the store has the last word. A batch of events is planned with what is cached, and the store
//! plans again where the version of an organisation's endpoints is another one. The change feed
//! (`endpoint_watch`) and changes through this server replace what is outdated, endpoint by endpoint: an
//! organisation may have thousands.
//!
//! After a failover the database may lack what was read from the one before, and count its changes again. So whoever reads
//! endpoints names the [database](DatabaseEpoch) that they are from, and the cache takes none from an earlier one.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use moka::ops::compute::Op;
use moka::{Entry, Expiry};

use crate::delivery::metrics::DeliveryMetrics;
use crate::domain::{Endpoint, EndpointId, OrgId};
use crate::store::{EndpointsSince, OrgEndpoints, Result, Store};
use crate::telemetry::OrgLines;

/// Maximum bytes of all cached endpoints, as [`weigh`] estimates them.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Bytes of an endpoint, or of an organisation without any, beside its texts.
const BYTES_EACH: usize = 1_024;

/// How long an organisation's endpoints stay cached when one of them cannot be read, and are not read again when none can:
/// they may be mended without a new version.
const UNREADABLE_FOR: Duration = Duration::from_secs(1);
/// Organisations that are known not to be readable at most.
const UNREADABLE_MAX: u64 = 16_384;

/// Organisations whose endpoints cannot be read.
static UNREADABLE_ORGS: OrgLines = OrgLines::new();

/// Counts the databases that this server has had: one more after each failover that may have lost something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct DatabaseEpoch(u64);

/// The endpoints of some organisations, all read from one database.
#[derive(Clone, Debug)]
pub struct KnownEndpoints {
    /// The endpoints.
    pub by_org: HashMap<OrgId, Arc<OrgEndpoints>>,
    pub(super) database: DatabaseEpoch,
}

/// Has endpoints read again of which one could not be read.
struct UnreadableAgain;

impl Expiry<OrgId, Arc<OrgEndpoints>> for UnreadableAgain {
    fn expire_after_create(
        &self,
        _: &OrgId,
        endpoints: &Arc<OrgEndpoints>,
        _: Instant,
    ) -> Option<Duration> {
        (!endpoints.unreadable.is_empty()).then_some(UNREADABLE_FOR)
    }

    fn expire_after_update(
        &self,
        org: &OrgId,
        endpoints: &Arc<OrgEndpoints>,
        updated_at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(org, endpoints, updated_at)
    }
}

/// The cache. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct EndpointCache {
    store: Store,
    metrics: Arc<DeliveryMetrics>,
    by_org: moka::sync::Cache<OrgId, Arc<OrgEndpoints>>,
    /// Organisations whose endpoints could not be read although those of others could: reading all together would fail.
    unreadable: moka::sync::Cache<OrgId, ()>,
    /// Held for reading while something is cached, so that nothing of an earlier database comes behind the change.
    database: Arc<RwLock<DatabaseEpoch>>,
}

impl EndpointCache {
    /// An empty cache over a store.
    pub(super) fn new(store: Store, metrics: Arc<DeliveryMetrics>) -> Self {
        let by_org = moka::sync::Cache::builder()
            .max_capacity(BYTES_MAX)
            .weigher(|_, endpoints: &Arc<OrgEndpoints>| weigh(endpoints))
            .expire_after(UnreadableAgain)
            .build();
        let unreadable = moka::sync::Cache::builder()
            .max_capacity(UNREADABLE_MAX)
            .time_to_live(UNREADABLE_FOR)
            .build();
        Self { store, metrics, by_org, unreadable, database: Arc::default() }
    }

    /// The database that is read now. Whoever reads from it asks before that.
    pub(super) fn database(&self) -> DatabaseEpoch {
        *self.held_database()
    }

    /// The same, held until something of it is cached.
    fn held_database(&self) -> RwLockReadGuard<'_, DatabaseEpoch> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints of some organisations, in any order and named any number of times, read from the store where
    /// they are not cached.
    async fn of(
        &self,
        orgs: impl IntoIterator<Item = OrgId>,
        database: DatabaseEpoch,
    ) -> Result<HashMap<OrgId, Arc<OrgEndpoints>>> {
        let orgs: BTreeSet<OrgId> = orgs.into_iter().collect();
        let (mut found, mut missing) = (HashMap::with_capacity(orgs.len()), Vec::new());
        for org in orgs {
            match self.by_org.get(&org) {
                Some(endpoints) => _ = found.insert(org, endpoints),
                None => missing.push(org),
            }
        }
        if !missing.is_empty() {
            for (org, endpoints) in self.store.system().org_endpoints(&missing).await? {
                found.insert(org, self.refresh(org, endpoints, database));
            }
        }
        Ok(found)
    }

    /// [`Self::of`] without the organisations whose endpoints the store cannot read although it can be reached, as where a
    /// page is damaged. Where reading them together fails, those that are not cached are read one by one, and the ones at
    /// fault are left out for [`UNREADABLE_FOR`].
    ///
    /// # Errors
    /// When the store cannot be reached, or the endpoints of none of several can be read.
    pub(super) async fn readable(
        &self,
        orgs: impl IntoIterator<Item = OrgId>,
    ) -> Result<KnownEndpoints> {
        let mut orgs: BTreeSet<OrgId> = orgs.into_iter().collect();
        let is_one = orgs.len() == 1;
        orgs.retain(|org| self.has(*org) || !self.unreadable.contains_key(org));
        let database = self.database();
        let known = |by_org| KnownEndpoints { by_org, database };
        let failure = match self.of(orgs.iter().copied(), database).await {
            Err(error) if !error.is_connection() => error,
            result => return result.map(known),
        };
        let (mut found, mut unreadable) = (HashMap::with_capacity(orgs.len()), Vec::new());
        for org in orgs {
            match self.of([org], database).await {
                Ok(of_org) => found.extend(of_org),
                Err(error) if error.is_connection() => return Err(error),
                Err(error) => {
                    self.note_unreadable();
                    unreadable.push(org);
                    if let Some(unlogged) = UNREADABLE_ORGS.due(org) {
                        tracing::error!(%org, %error, unlogged,
                            "cannot read the endpoints of an organisation; its deliveries wait");
                    }
                }
            }
        }
        if found.is_empty() && !is_one {
            return Err(failure);
        }
        for org in unreadable {
            self.unreadable.insert(org, ());
        }
        Ok(known(found))
    }

    /// The endpoints of an organisation as the store has them now; `None` when there is no such organisation.
    pub(super) async fn reload(
        &self,
        org: OrgId,
        database: DatabaseEpoch,
    ) -> Result<Option<Arc<OrgEndpoints>>> {
        let mut read = self.store.system().org_endpoints(&[org]).await?;
        Ok(read.remove(&org).map(|endpoints| self.refresh(org, endpoints, database)))
    }

    /// Caches endpoints that were read from this database, unless it is another one now or newer ones are cached, and returns
    /// the newer.
    pub(super) fn refresh(
        &self,
        org: OrgId,
        read: Arc<OrgEndpoints>,
        database: DatabaseEpoch,
    ) -> Arc<OrgEndpoints> {
        self.metrics.hookgate_endpoints_unreadable_total.inc_by(read.unreadable.len() as u64);
        let current = self.held_database();
        if *current != database {
            return read;
        }
        let newer = |cached: &Arc<OrgEndpoints>| cached.version > read.version;
        let entry = self.by_org.entry(org).and_compute_with(|cached| match cached {
            Some(cached) if newer(cached.value()) => Op::Nop,
            Some(_) | None => Op::Put(Arc::clone(&read)),
        });
        entry.into_entry().map_or(read, Entry::into_value)
    }

    /// Counts an endpoint whose row or deliveries could not be read, or an organisation whose endpoints could not.
    pub(super) fn note_unreadable(&self) {
        self.metrics.hookgate_endpoints_unreadable_total.inc();
    }

    /// Whether an endpoint could not be read when its organisation's were.
    pub(super) fn is_unreadable(&self, org: OrgId, endpoint: EndpointId) -> bool {
        let is_it = |endpoints: Arc<OrgEndpoints>| {
            endpoints.unreadable.iter().any(|unreadable| unreadable.id == endpoint)
        };
        self.by_org.get(&org).is_some_and(is_it)
    }

    /// Whether the endpoints of an organisation are cached.
    pub(super) fn has(&self, org: OrgId) -> bool {
        self.by_org.contains_key(&org)
    }

    /// What has changed of an organisation's endpoints since a version, applied to what is cached. `None` when all of
    /// them are to be read.
    pub(super) async fn update(
        &self,
        org: OrgId,
        since: u64,
        database: DatabaseEpoch,
    ) -> Result<Option<EndpointsSince>> {
        let changes = self.store.system().endpoints_since(org, since).await?;
        Ok(changes.filter(|changes| self.apply(org, changes, database)))
    }

    /// Applies changes to what is cached, unless that is newer. `false` when that cannot be: nothing is cached, or
    /// what is cached is older than the first of them, or of another database.
    fn apply(&self, org: OrgId, changes: &EndpointsSince, database: DatabaseEpoch) -> bool {
        let current = self.held_database();
        if *current != database {
            return false;
        }
        let entry = self.by_org.entry(org).and_compute_with(|cached| {
            let cached = cached.map(Entry::into_value);
            match cached.filter(|cached| cached.version < changes.version) {
                Some(older) => older.with(changes).map_or(Op::Nop, |now| Op::Put(Arc::new(now))),
                None => Op::Nop,
            }
        });
        entry.into_entry().is_some_and(|entry| entry.value().version >= changes.version)
    }

    /// Drops the endpoints of an organisation: they have changed.
    pub(super) fn invalidate(&self, org: OrgId) {
        self.by_org.invalidate(&org);
        self.unreadable.invalidate(&org);
    }

    /// Drops the endpoints of all organisations: the database is another one.
    pub(super) fn change_database(&self) {
        let mut current = self.database.write().unwrap_or_else(PoisonError::into_inner);
        current.0 += 1;
        self.by_org.invalidate_all();
        self.unreadable.invalidate_all();
    }

    /// How many deliveries events of these types and accounts make; `None` when the organisation's endpoints are not cached,
    /// as before its first event.
    pub(super) fn planned<'a>(
        &self,
        org: OrgId,
        events: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Option<usize> {
        let endpoints = self.by_org.get(&org)?;
        Some(events.map(|(event_type, account)| endpoints.matching(event_type, account)).sum())
    }
}

fn weigh(endpoints: &OrgEndpoints) -> u32 {
    let texts = |endpoint: &Arc<Endpoint>| {
        let description = endpoint.description.as_ref().map_or(0, String::len);
        endpoint.url.as_str().len() + description + 2 * endpoint.event_types.text_len()
    };
    let texts: usize = endpoints.endpoints.iter().map(texts).sum();
    u32::try_from(texts + BYTES_EACH * (1 + endpoints.endpoints.len())).unwrap_or(u32::MAX)
}
