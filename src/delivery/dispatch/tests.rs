//! Tests of what is shared, over a store that can be reached and takes nothing.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::delivery::admission::endpoint;
use crate::delivery::handle::DeliveryHandle;
use crate::delivery::metrics::DeliveryMetrics;
use crate::delivery::wakes::OutcomeWakes;
use crate::domain::{DeliveryId, Event, EventId, TraceId};
use crate::store::{OrgEndpoints, Store};
use crate::telemetry::Registry;

const LEASE: Duration = Duration::from_mins(5);

/// What is shared, and the receiving end of released leases.
pub(in crate::delivery) fn dispatch(
    store: &Store,
    limits: AdmissionLimits,
) -> (Dispatch, mpsc::UnboundedReceiver<LeasedDelivery>) {
    let (released, receiver) = mpsc::unbounded_channel();
    let metrics = DeliveryMetrics::register(&Registry::new()).unwrap();
    let dispatch = Dispatch::new(
        DispatchOptions { limits, instance: InstanceId::new(1), lease: LEASE, released },
        EndpointCache::new(store.clone(), metrics),
        Clock::system(),
        Wake::new(),
    );
    (dispatch, receiver)
}

pub(in crate::delivery) const LIMITS: AdmissionLimits =
    AdmissionLimits { slots: 10, places: 10, bytes: 1_000, concurrency: 10 };

#[tokio::test]
async fn cancelled_delivery_frees_its_place_for_others_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::without_tables(directory.path()).await;
    let (dispatch, _released) = dispatch(&store, LIMITS);
    let (endpoint, (now, monotonic)) = (endpoint(1), dispatch.now());
    let event = Arc::new(Event {
        id: EventId::mint(now),
        org_id: endpoint.org_id,
        event_type: "user.login".parse().unwrap(),
        payload: "{}".into(),
        dedup_id: None,
        account_id: None,
        user_id: None,
        occurred_at: None,
        received_at: now,
        trace_id: TraceId::mint(),
        accept_span: None,
    });
    let (id, lease) = (DeliveryId::mint(now), dispatch.lease());
    assert!(dispatch.admission().introduce(&endpoint, 1, monotonic));
    let (of, attempts, ordered) = (endpoint.id, 0, false);
    let delivery = LeasedDelivery { id, event, endpoint, attempts, ordered, lease };
    dispatch.queue([], [(delivery, false)]);
    dispatch.ready().await;
    DeliveryHandle::new(dispatch.clone(), OutcomeWakes::default()).cancelled(of, id);
    assert_eq!(dispatch.admission().waiting(), 0);
    let ready = pin!(dispatch.ready());
    assert_eq!(ready.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()));
}

/// A read that began before a failover may end after it.
#[tokio::test]
async fn what_was_read_from_an_earlier_database_is_neither_cached_nor_made_known() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::without_tables(directory.path()).await;
    let (dispatch, _released) = dispatch(&store, LIMITS);
    let (cache, org) = (dispatch.cache(), endpoint(1).org_id);
    let of_version = |version| Arc::new(OrgEndpoints { version, ..OrgEndpoints::default() });
    let earlier = cache.database();
    cache.refresh(org, of_version(7), earlier);
    dispatch.database_changed();
    cache.refresh(org, of_version(7), earlier);
    assert!(!cache.has(org) && dispatch.admission_of(earlier).is_none());
    let read = cache.refresh(org, of_version(6), cache.database());
    assert!(read.version == 6 && cache.has(org));
    assert!(dispatch.admission_of(cache.database()).is_some());
}
