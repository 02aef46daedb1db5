//! Things to store, and the few calls that most tests begin with.

use std::sync::Arc;

use bytes::Bytes;
use hookgate::domain::{
    Actor, ApiKey, ApiKeyId, Attempt, DeadLetterFilter, DeadReason, Decision, Endpoint, EndpointId,
    ErrorClass, Event, EventId, KeyHash, LeasedDelivery, ListOrder, Org, OrgId, Outcome, Page,
    PageRequest, Role, SigningSecret, Timestamp, TraceId,
};
use hookgate::store::{Persisted, Result, Store};

use super::Subject;
use crate::support::store::lease_due;
pub(crate) use crate::support::store::{Room, persist_events, room};

/// The first page of any list.
pub(crate) const FIRST_PAGE: PageRequest = PageRequest::first(100);

/// How long endpoints may fail.
pub(crate) const DISABLE_AFTER: std::time::Duration = std::time::Duration::from_hours(24);

/// Every dead letter.
pub(crate) const ALL_LETTERS: DeadLetterFilter = DeadLetterFilter {
    endpoint_id: None,
    event_id: None,
    reason: None,
    event_type: None,
    since: None,
    until: None,
    replayed: None,
    error_class: None,
    status_code: None,
};

/// So many seconds into the tests' time.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(1_767_225_600_000_000 + seconds * 1_000_000)
}

pub(crate) fn some_org(created_at: Timestamp) -> Org {
    Org::new(OrgId::mint(created_at), "Acme", created_at)
}

pub(crate) fn some_key(role: Role, created_at: Timestamp) -> ApiKey {
    ApiKey {
        id: ApiKeyId::mint(created_at),
        role,
        name: "ci".to_owned(),
        scopes: role.scopes(),
        rate_limit_per_minute: None,
        hash: KeyHash::new("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA".to_owned()),
        created_at,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    }
}

pub(crate) fn some_endpoint(org: OrgId, filters: &str) -> Endpoint {
    let url = "https://example.com/hooks?x=1".parse().unwrap();
    Endpoint {
        event_types: filters.parse().unwrap(),
        description: Some("näme".to_owned()),
        ..Endpoint::new(org, url, SigningSecret::generate().unwrap(), at(0))
    }
}

pub(crate) fn some_event(org: OrgId, event_type: &str, received_at: Timestamp) -> Event {
    Event {
        id: EventId::mint(received_at),
        org_id: org,
        event_type: event_type.parse().unwrap(),
        payload: Bytes::from_static(br#"{"a" : 1.0}"#),
        dedup_id: None,
        account_id: None,
        user_id: None,
        occurred_at: None,
        received_at,
        trace_id: TraceId::mint(),
        accept_span: None,
    }
}

/// An event that its tenant calls `dedup_id`.
pub(crate) fn named_event(org: OrgId, dedup_id: &str, received_at: Timestamp) -> Event {
    Event {
        id: EventId::from_dedup_id(org, dedup_id),
        dedup_id: Some(dedup_id.to_owned()),
        ..some_event(org, "a.b", received_at)
    }
}

/// Adds an organisation and returns its id.
pub(crate) async fn add_org(subject: &Subject) -> OrgId {
    let org = some_org(at(0));
    subject.store.system().insert_org(&org, &Actor::CLI).await.unwrap();
    org.id
}

/// Adds an endpoint with these filters.
pub(crate) async fn add_endpoint(subject: &Subject, org: OrgId, filters: &str) -> Endpoint {
    let endpoint = some_endpoint(org, filters);
    subject.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    endpoint
}

/// Persists without room for leases.
pub(crate) async fn persist(subject: &Subject, events: &[Event], now: Timestamp) -> Persisted {
    let events: Vec<Arc<Event>> = events.iter().cloned().map(Arc::new).collect();
    persist_events(&subject.store, &events, None, now).await.unwrap()
}

/// An organisation with one endpoint for everything and `count` deliveries due from `at(0)` on.
pub(crate) async fn org_with_deliveries(subject: &Subject, count: usize) -> (OrgId, Endpoint) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let events: Vec<Event> = (0..count).map(|_| some_event(org, "a.b", at(0))).collect();
    assert_eq!(persist(subject, &events, at(0)).await.planned, count);
    (org, endpoint)
}

/// Claims at `now`, under a lease of a minute.
pub(crate) async fn claim(subject: &Subject, max: usize, now: Timestamp) -> Vec<LeasedDelivery> {
    let until = now.plus(std::time::Duration::from_mins(1));
    claim_from(&subject.store, room(max, until), &[], now).await
}

/// Claims for a room, leaving out some endpoints.
pub(crate) async fn claim_from(
    store: &Store,
    room: Room<'_>,
    except: &[EndpointId],
    now: Timestamp,
) -> Vec<LeasedDelivery> {
    lease_due(store, Room { except, ..room }, now).await
}

/// The first attempt at a delivery, which failed.
pub(crate) fn failed_attempt(number: u32, started_at: Timestamp) -> Attempt {
    Attempt {
        number,
        started_at,
        duration_ms: 12,
        status_code: Some(500),
        error_class: Some(ErrorClass::Status),
        error: Some("status 500".to_owned()),
        response_excerpt: Some("oops".to_owned()),
    }
}

/// What became of a leased delivery.
pub(crate) fn outcome(
    leased: &LeasedDelivery,
    decision: Decision,
    decided_at: Timestamp,
) -> Outcome {
    let attempt = failed_attempt(leased.attempts + 1, decided_at);
    leased.outcome(Some(attempt), decision, decided_at, decided_at.minus(DISABLE_AFTER))
}

pub(crate) const EXHAUSTED: Decision = Decision::Dead(DeadReason::Exhausted);

/// Every row of a list, in pages of so many.
pub(crate) async fn walk<T>(
    limit: u32,
    list: impl AsyncFn(PageRequest) -> Result<Page<T>>,
) -> Vec<T> {
    walk_in(ListOrder::NewestFirst, limit, list).await
}

/// Every row of a list, in this order and in pages of so many.
pub(crate) async fn walk_in<T>(
    order: ListOrder,
    limit: u32,
    list: impl AsyncFn(PageRequest) -> Result<Page<T>>,
) -> Vec<T> {
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = list(PageRequest { limit, after, order }).await.unwrap();
        assert!(page.data.len() <= limit as usize);
        seen.extend(page.data);
        after = page.next_cursor;
        if after.is_none() {
            return seen;
        }
    }
}
