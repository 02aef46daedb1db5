//! The world of a delivery test: a tenant on the real app, whose background work is held, a manual clock and
//! delivery services that the test steps or starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookgate::app::{App, AppParts, BackgroundWork, Metrics};
use hookgate::config::{Config, DeliveryConfig, SecretsKeys, StoreConfig};
use hookgate::delivery::{
    AdmissionDoor, DeliveryInputs, DeliveryService, DnsResolver, KnownEndpoints, Offered,
};
use hookgate::domain::{
    Actor, Delivery, DeliveryFilter, DeliveryPolicyChange, Endpoint, EndpointChange, EndpointId,
    ErrorClass, Event, EventId, InstanceId, Org, OrgId, PageRequest, SigningSecret, Timestamp,
    TraceId,
};
use hookgate::runtime::{Clock, Wake};
use hookgate::store::{EventBatch, PlannedDelivery, Store, plan_deliveries};
use tempfile::TempDir;

use crate::support::app::config;
use crate::support::receiver::Receiver;
use crate::support::store::persist_events;

/// Everything a delivery test needs.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) config: DeliveryConfig,
    pub(crate) org: OrgId,
    store_config: StoreConfig,
    /// Not run: it holds the store, and each test makes the delivery services it needs.
    _app: App,
    pub(crate) directory: TempDir,
}

/// Events whose deliveries were offered and are not stored yet.
pub(crate) struct OfferedEvents {
    store: Store,
    now: Timestamp,
    events: Vec<Arc<Event>>,
    endpoints: KnownEndpoints,
    deliveries: Vec<PlannedDelivery>,
    offered: Offered,
}

impl OfferedEvents {
    /// Stores them and returns how many deliveries were leased.
    pub(crate) async fn store(self) -> usize {
        let Self { store, now, events, endpoints, deliveries, offered } = self;
        let batch = EventBatch {
            events: &events,
            endpoints: &endpoints.by_org,
            deliveries: &deliveries,
            lease: Some(offered.lease()),
        };
        let mut persisted = store.system().persist_events(batch, now).await.unwrap();
        let leased = persisted.leased.len();
        offered.stored(&deliveries, &mut persisted);
        leased
    }
}

impl World {
    /// Private endpoints allowed, two retries (after 5 s and 5 min), and the settings in `flags`.
    pub(crate) async fn with(flags: &[&str]) -> Self {
        let given =
            |base: &str| flags.iter().any(|flag| flag.split('=').next() == base.split('=').next());
        let base = ["--retry-schedule=5s,5m", "--allow-private-endpoints=true"];
        let base = base.into_iter().filter(|base| !given(base));
        let flags: Vec<&str> = base.chain(flags.iter().copied()).collect();
        let directory = crate::support::temporary::directory();
        let config = config(directory.path(), &flags);
        let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000));
        let builder = App::builder(&config).clock(clock.clone());
        let held = builder.background(BackgroundWork::Hold).without_bootstrap();
        let app = Box::pin(held.build()).await.unwrap();
        let AppParts { store, metrics, .. } = app.parts();
        let now = clock.now();
        let org = OrgId::mint(now);
        let row = Org::new(org, "tenant", now);
        store.system().insert_org(&row, &Actor::CLI).await.unwrap();
        let Config { delivery: config, store: store_config, .. } = config;
        Self { store, clock, metrics, config, store_config, org, _app: app, directory }
    }

    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The store's path, and settings to open it with these encryption keys.
    pub(crate) fn store_config(&self, secrets_key: Option<SecretsKeys>) -> (PathBuf, StoreConfig) {
        let config = StoreConfig { secrets_key, ..self.store_config.clone() };
        (self.directory.path().join("hookgate.db"), config)
    }

    /// An endpoint at a receiver, which trusts its secret.
    pub(crate) async fn endpoint(&self, receiver: &Receiver, event_types: &str) -> EndpointId {
        let secret = SigningSecret::generate().unwrap();
        receiver.trust(&secret);
        self.endpoint_at(&receiver.url("/hook?token=1"), event_types, secret).await
    }

    /// An endpoint at any URL.
    pub(crate) async fn endpoint_at(
        &self,
        url: &str,
        event_types: &str,
        secret: SigningSecret,
    ) -> EndpointId {
        let now = self.clock.now();
        let endpoint = Endpoint {
            event_types: event_types.parse().unwrap(),
            ..Endpoint::new(self.org, url.parse().unwrap(), secret, now)
        };
        self.store.insert_endpoint(self.org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
        endpoint.id
    }

    /// Another organisation, which the world is then of.
    pub(crate) async fn another_org(&mut self) -> OrgId {
        let now = self.clock.now();
        self.org = OrgId::mint(now);
        let row = Org::new(self.org, "another", now);
        self.store.system().insert_org(&row, &Actor::CLI).await.unwrap();
        self.org
    }

    /// Changes an endpoint's delivery policy.
    pub(crate) async fn set_policy(&self, endpoint: EndpointId, policy: DeliveryPolicyChange) {
        let change = EndpointChange { policy, ..EndpointChange::default() };
        let now = self.clock.now();
        self.store
            .update_endpoint(self.org, endpoint, &change, &Actor::CLI, now)
            .await
            .unwrap()
            .unwrap();
    }

    /// The world with the system clock.
    pub(crate) fn with_system_clock(self) -> Self {
        let clock = Clock::system();
        let store = self.store.clone().with_clock(clock.clone());
        Self { store, clock, ..self }
    }

    /// Stores `count` events without leasing their deliveries.
    pub(crate) async fn publish(&self, event_type: &str, count: usize) -> Vec<EventId> {
        let events = self.events(event_type, count);
        let now = self.clock.now();
        persist_events(&self.store, &events, None, now).await.unwrap();
        events.iter().map(|event| event.id).collect()
    }

    /// Offers the deliveries of `count` events to a service, stores them and queues what was leased. Returns how many
    /// those are.
    pub(crate) async fn offer(
        &self,
        door: &AdmissionDoor,
        event_type: &str,
        count: usize,
    ) -> usize {
        self.offer_only(door, event_type, count).await.store().await
    }

    /// [`Self::offer`] before the events are stored.
    pub(crate) async fn offer_only(
        &self,
        door: &AdmissionDoor,
        event_type: &str,
        count: usize,
    ) -> OfferedEvents {
        let endpoints = door.endpoints(&[self.org]).await.unwrap();
        self.offer_for(door, endpoints, event_type, count)
    }

    /// [`Self::offer_only`] with endpoints that were read before.
    pub(crate) fn offer_for(
        &self,
        door: &AdmissionDoor,
        endpoints: KnownEndpoints,
        event_type: &str,
        count: usize,
    ) -> OfferedEvents {
        let events = self.events(event_type, count);
        let mut deliveries = plan_deliveries(&events, &endpoints.by_org);
        let offered = door.offer(&mut deliveries, &endpoints);
        let (store, now) = (self.store.clone(), self.clock.now());
        OfferedEvents { store, now, events, endpoints, deliveries, offered }
    }

    fn events(&self, event_type: &str, count: usize) -> Vec<Arc<Event>> {
        let now = self.clock.now();
        let event = |number| {
            Arc::new(Event {
                id: EventId::mint(now),
                org_id: self.org,
                event_type: event_type.parse().unwrap(),
                payload: Bytes::from(format!("{{\"number\": {number}}}")),
                dedup_id: None,
                account_id: None,
                user_id: None,
                occurred_at: None,
                received_at: now,
                trace_id: TraceId::mint(),
                accept_span: None,
            })
        };
        (0..count).map(event).collect()
    }

    /// The delivery service.
    pub(crate) fn delivery(&self) -> DeliveryService {
        self.delivery_by(None)
    }

    /// [`Self::delivery`] with host names resolved by `resolver`.
    pub(crate) fn delivery_with(&self, resolver: Arc<dyn DnsResolver>) -> DeliveryService {
        self.delivery_by(Some(resolver))
    }

    fn delivery_by(&self, resolver: Option<Arc<dyn DnsResolver>>) -> DeliveryService {
        let store = self.store.clone();
        let (clock, metrics) = (self.clock.clone(), Arc::clone(&self.metrics.delivery));
        let inputs = DeliveryInputs::new(Wake::new(), InstanceId::new(1));
        let inputs = DeliveryInputs { resolver, ..inputs };
        DeliveryService::new(&self.config, store, clock, metrics, inputs).unwrap()
    }

    /// Attempts once everything that is due and returns the number of attempts.
    pub(crate) async fn deliver(&self) -> usize {
        self.delivery().run_once().await.unwrap()
    }

    /// The error class and text of the last attempt of the only delivery.
    pub(crate) async fn last_failure(&self) -> (ErrorClass, String) {
        let attempts = self.store.attempts(self.org, self.row().await.id).await.unwrap();
        let last = attempts.last().unwrap();
        (last.error_class.unwrap(), last.error.clone().unwrap())
    }

    /// Advances the clock by a wait and its jitter.
    pub(crate) fn advance(&self, wait: Duration) {
        self.clock.advance(wait + wait / 10);
    }

    /// The deliveries, newest first, at most 1000.
    pub(crate) async fn rows(&self) -> Vec<Delivery> {
        let page = PageRequest::first(1000);
        self.store.deliveries(self.org, &DeliveryFilter::default(), page).await.unwrap().data
    }

    /// The only delivery.
    pub(crate) async fn row(&self) -> Delivery {
        let rows = self.rows().await;
        assert_eq!(rows.len(), 1);
        rows[0].clone()
    }
}
