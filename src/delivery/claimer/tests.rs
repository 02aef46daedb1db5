//! Tests of claims, over a store that can be reached and takes nothing.

use super::*;
use crate::delivery::admission::{Room, endpoint};
use crate::delivery::dispatch::tests::{LIMITS, dispatch};
use crate::store::OrgEndpoints;

/// The change feed tells admission of it later.
#[tokio::test]
async fn endpoint_that_is_known_and_not_read_is_not_asked_for_again_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::without_tables(directory.path()).await;
    let (dispatch, _released) = dispatch(&store, LIMITS);
    let (endpoint, now) = (endpoint(1), dispatch.monotonic());
    dispatch.admission().left_in_store(&endpoint, now);
    let (cache, none) = (dispatch.cache(), Arc::new(OrgEndpoints::default()));
    cache.refresh(endpoint.org_id, none, cache.database());
    let (claimable, _) = dispatch.admission().claimable(now);
    assert_eq!(claimable, [endpoint.id]);
    let work = ClaimWork { endpoints: claimable, scan: false };
    assert!(!Claimer::new(store, dispatch.clone()).claim(work).await.unwrap());
    assert!(matches!(dispatch.admission().room(endpoint.id, now), Room::Later(_)));
    assert_eq!(dispatch.admission().claimable(now).0, []);
}

/// It would stop every claim.
#[tokio::test]
async fn unanswered_lease_that_the_store_does_not_release_is_left_to_lapse() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::without_tables(directory.path()).await;
    let (dispatch, _released) = dispatch(&store, LIMITS);
    let mut claimer = Claimer::new(store, dispatch.clone());
    let lost = StoreError::from(sqlx::Error::PoolTimedOut);
    claimer.unanswered.note::<()>(dispatch.lease(), Err(lost)).unwrap_err();
    assert!(!claimer.claim(ClaimWork::default()).await.unwrap());
}
