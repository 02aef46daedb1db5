//! The operations that lock rows, each on what all of them share.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hookgate::domain::{
    Actor, DeadLetterDeletion, DeadLetterId, DeadReason, Decision, DeliveryFilter, DeliveryId,
    EndpointChange, Event, EventFilter, EventId, InstanceId, Lease, LeaseToken, Month, OrgChange,
    Outcome, PageRequest, Role, SigningSecret, Timestamp,
};
use hookgate::store::{ClaimCursor, LeaseGrant, Result, Store};

use super::super::fixtures::{
    ALL_LETTERS, EXHAUSTED, at, named_event, outcome, some_endpoint, some_event, some_key,
};
use super::inboxes::{consume_inboxes, pause_and_resume_inboxes};
use super::removals::{enforce_retention, erase_accounts, fold_deltas};
use super::{Tenant, World};
use crate::support::store::persist_events;

/// An operation and its name.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) run: for<'a> fn(&'a World, &'a Store) -> BoxFuture<'a, Result<()>>,
}

macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        &[$(Operation {
            name: stringify!($name),
            run: |world, store| Box::pin($name(world, store)),
        }),+]
    };
}

/// Those that add partitions come last: more of them make every later pair slower.
pub(super) const OPERATIONS: &[Operation] = operations![
    persist_events_with_dedup_ids,
    persist_dedup_ids_twice,
    lease_deliveries,
    release_lapsed,
    release_leases,
    record_successes,
    record_retries,
    record_gone,
    record_automatic_disabling,
    record_exhausted,
    disable_and_enable_endpoint,
    change_url,
    add_and_remove_endpoint,
    cancel_pending,
    cancel_steps,
    suspend_and_resume_orgs,
    update_org,
    delete_org,
    rotate_secret,
    reencrypt_secrets,
    retry_deliveries,
    cancel_deliveries,
    replay_deliveries,
    replay_events,
    replay_dead_letters,
    plan_test_event,
    quarantine_event,
    add_and_expire_keys,
    touch_keys,
    count_events,
    consume_inboxes,
    pause_and_resume_inboxes,
    fold_deltas,
    erase_accounts,
    enforce_retention,
    maintain,
];

/// The newest row of a list: the same for everybody.
const NEWEST: PageRequest = PageRequest::first(1);
/// An endpoint that has failed since before this is not disabled for it.
const LONG_AGO: i64 = -1_000_000;

async fn persist_events_with_dedup_ids(world: &World, store: &Store) -> Result<()> {
    let now = world.now();
    let events = |tenant: &Tenant| {
        let org = tenant.org;
        [named_event(org, "x", now), some_event(org, "a.b", now), named_event(org, "y", now)]
    };
    persist(store, world.tenants().await.iter().flat_map(events), now).await
}

/// Two events with one dedup id, further apart than the window, make two passes.
async fn persist_dedup_ids_twice(world: &World, store: &Store) -> Result<()> {
    let (now, later) = (world.now(), world.now().plus(Duration::from_hours(2)));
    let events = |tenant: &Tenant| {
        let org = tenant.org;
        [named_event(org, "y", now), named_event(org, "x", now), named_event(org, "y", later)]
    };
    persist(store, world.tenants().await.iter().flat_map(events), now).await
}

async fn persist(store: &Store, events: impl Iterator<Item = Event>, now: Timestamp) -> Result<()> {
    let events: Vec<Arc<Event>> = events.map(Arc::new).collect();
    persist_events(store, &events, None, now).await?;
    Ok(())
}

async fn lease_deliveries(world: &World, store: &Store) -> Result<()> {
    let now = world.now();
    let due = store.system().due_endpoints(ClaimCursor::default(), now).await?.endpoints;
    let grant = |due: &hookgate::store::DueEndpoint| LeaseGrant {
        endpoint: due.endpoint,
        org: due.org,
        ordered: due.ordered,
        deliveries_max: 5,
        bytes_max: 1 << 20,
    };
    let grants: Vec<LeaseGrant> = due.iter().map(grant).collect();
    let token = LeaseToken::mint(InstanceId::new(1));
    let lease = Lease { token, until: now.plus(Duration::from_secs(1)) };
    store.system().lease_deliveries(&grants, lease, now).await?;
    Ok(())
}

async fn release_lapsed(world: &World, store: &Store) -> Result<()> {
    let now = world.now();
    world.leased(store, now).await?;
    store.system().release_lapsed(now.plus(Duration::from_secs(2))).await?;
    Ok(())
}

async fn release_leases(world: &World, store: &Store) -> Result<()> {
    let now = world.now();
    world.leased(store, now).await?;
    store.system().release_leases(InstanceId::new(1), now).await?;
    Ok(())
}

async fn record_successes(world: &World, store: &Store) -> Result<()> {
    record(world, store, Decision::Delivered, at(LONG_AGO)).await
}

async fn record_retries(world: &World, store: &Store) -> Result<()> {
    record(world, store, Decision::RetryAt(at(0)), at(LONG_AGO)).await
}

async fn record_gone(world: &World, store: &Store) -> Result<()> {
    record(world, store, Decision::Dead(DeadReason::Gone), at(LONG_AGO)).await
}

async fn record_automatic_disabling(world: &World, store: &Store) -> Result<()> {
    let later = at(0).plus(Duration::from_hours(24 * 9_000));
    record(world, store, Decision::RetryAt(at(0)), later).await
}

async fn record_exhausted(world: &World, store: &Store) -> Result<()> {
    record(world, store, EXHAUSTED, at(LONG_AGO)).await
}

/// Records what became of new deliveries; endpoints that have failed since `limit` are disabled.
async fn record(world: &World, store: &Store, decision: Decision, limit: Timestamp) -> Result<()> {
    let now = world.now();
    let outcomes: Vec<Outcome> = world
        .leased(store, now)
        .await?
        .iter()
        .map(|leased| Outcome {
            disable_if_failing_since: limit,
            ..outcome(leased, decision.clone(), now)
        })
        .collect();
    store.system().record_outcomes(&outcomes).await?;
    Ok(())
}

async fn disable_and_enable_endpoint(world: &World, store: &Store) -> Result<()> {
    for disabled_reason in [Some(Some("off".to_owned())), Some(None)] {
        let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
        update_endpoints(world, store, &change).await?;
    }
    Ok(())
}

async fn change_url(world: &World, store: &Store) -> Result<()> {
    let url = Some("https://example.org/".parse().unwrap());
    update_endpoints(world, store, &EndpointChange { url, ..EndpointChange::default() }).await
}

async fn update_endpoints(world: &World, store: &Store, change: &EndpointChange) -> Result<()> {
    for tenant in world.two_tenants().await {
        let id = tenant.endpoints[0];
        store.update_endpoint(tenant.org, id, change, &Actor::CLI, world.now()).await?;
    }
    Ok(())
}

async fn add_and_remove_endpoint(world: &World, store: &Store) -> Result<()> {
    let (org, now) = (world.tenants[0].org, world.now());
    let endpoint = some_endpoint(org, "*");
    let _ = store.insert_endpoint(org, &endpoint, &Actor::CLI).await?;
    persist(store, std::iter::once(some_event(org, "a.b", now)), now).await?;
    store.delete_endpoint(org, endpoint.id, &Actor::CLI, now).await?;
    Ok(())
}

async fn cancel_pending(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        store.cancel_pending(tenant.org, tenant.endpoints[0], &Actor::CLI, world.now()).await?;
    }
    Ok(())
}

async fn cancel_steps(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        store.cancel_pending(tenant.org, tenant.endpoints[1], &Actor::CLI, world.now()).await?;
        let now = world.now();
        persist(store, std::iter::once(some_event(tenant.org, "a.b", at(0))), now).await?;
    }
    // Far enough ahead for `cancel_before` to be taken back.
    let later = world.now().plus(Duration::from_hours(1));
    for _ in 0..4 {
        store.system().cancel_step(later).await?;
    }
    Ok(())
}

async fn suspend_and_resume_orgs(world: &World, store: &Store) -> Result<()> {
    for suspended in [true, false] {
        for tenant in world.two_tenants().await {
            store.suspend_org(tenant.org, suspended, &Actor::CLI, world.now()).await?;
        }
    }
    Ok(())
}

async fn update_org(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        let now = world.now();
        let change = OrgChange { name: Some(now.to_string()), ..OrgChange::default() };
        store.update_org(tenant.org, &change, &Actor::CLI, now).await?;
    }
    Ok(())
}

async fn delete_org(world: &World, store: &Store) -> Result<()> {
    let next = Tenant::add(store).await?;
    let Tenant { org, .. } = std::mem::replace(&mut *world.doomed.lock().await, next);
    record_exhausted(world, store).await?;
    store.delete_org(org, &Actor::CLI, world.now()).await?;
    while store.system().delete_step(world.now()).await?.is_some() {}
    Ok(())
}

async fn rotate_secret(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        let (id, new) = (tenant.endpoints[0], SigningSecret::generate().unwrap());
        let now = world.now();
        let _ = store.rotate_secret(tenant.org, id, &new, Duration::ZERO, &Actor::CLI, now).await?;
        store.note_secret_shown(tenant.org, id, &Actor::CLI, now).await?;
    }
    Ok(())
}

async fn reencrypt_secrets(_: &World, store: &Store) -> Result<()> {
    store.system().reencrypt_secrets(None).await?;
    Ok(())
}

async fn retry_deliveries(world: &World, store: &Store) -> Result<()> {
    record_exhausted(world, store).await?;
    for (tenant, id) in newest_deliveries(world, store).await? {
        let _ = store.retry_delivery(tenant.org, id, &Actor::CLI, world.now()).await?;
    }
    Ok(())
}

async fn cancel_deliveries(world: &World, store: &Store) -> Result<()> {
    world.leased(store, world.now()).await?;
    for (tenant, id) in newest_deliveries(world, store).await? {
        let _ = store.cancel_delivery(tenant.org, id, &Actor::CLI, world.now()).await?;
    }
    Ok(())
}

async fn replay_deliveries(world: &World, store: &Store) -> Result<()> {
    record_exhausted(world, store).await?;
    for (tenant, id) in newest_deliveries(world, store).await? {
        let _ = store.replay_delivery(tenant.org, id, &Actor::CLI, world.now()).await?;
    }
    Ok(())
}

async fn newest_deliveries(world: &World, store: &Store) -> Result<Vec<(Tenant, DeliveryId)>> {
    let mut found = Vec::new();
    for tenant in world.two_tenants().await {
        let page = store.deliveries(tenant.org, &DeliveryFilter::default(), NEWEST).await?;
        found.extend(page.data.iter().map(|delivery| (tenant.clone(), delivery.id)));
    }
    Ok(found)
}

async fn replay_events(world: &World, store: &Store) -> Result<()> {
    record_exhausted(world, store).await?;
    for tenant in world.two_tenants().await {
        let page = store.events(tenant.org, &EventFilter::default(), NEWEST).await?;
        for event in page.data {
            let now = world.now();
            let _ = store.replay_event(tenant.org, event.id, None, &Actor::CLI, now).await?;
        }
    }
    Ok(())
}

async fn replay_dead_letters(world: &World, store: &Store) -> Result<()> {
    record_exhausted(world, store).await?;
    for tenant in world.two_tenants().await {
        let (org, now) = (tenant.org, world.now());
        let started = store.insert_replay(org, &ALL_LETTERS, &Actor::CLI, now).await?;
        let Some(replay) = started else { continue };
        store.step_replay(org, replay.id, now).await?;
        store.end_replay(org, replay.id, None, &Actor::CLI, now).await?;
    }
    Ok(())
}

async fn plan_test_event(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        let (endpoint, now) = (tenant.endpoints[0], world.now());
        let event = Arc::new(some_event(tenant.org, "a.b", now));
        let _ = store.plan_event(tenant.org, endpoint, &event, &Actor::CLI, now).await?;
    }
    Ok(())
}

async fn quarantine_event(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        let (org, now) = (tenant.org, world.now());
        let event = EventId::mint(now);
        store.quarantine_event(org, event, b"record", "no", now).await?;
        let (id, why) = (DeadLetterId::from_uuid(event.uuid()), DeadLetterDeletion::Discarded);
        store.delete_dead_letter(org, id, why, &Actor::CLI, now).await?;
    }
    Ok(())
}

async fn add_and_expire_keys(world: &World, store: &Store) -> Result<()> {
    for tenant in world.two_tenants().await {
        let now = world.now();
        let [old, new] = [(); 2].map(|()| some_key(Role::Tenant(tenant.org), now));
        let _ = store.system().insert_key(&old, &Actor::CLI).await?;
        let grace = Duration::from_secs(1);
        let _ = store.system().rotate_key(old.id, grace, &new, &Actor::CLI, now).await?;
        store.system().expire_key(new.id, now, &Actor::CLI, now).await?;
    }
    Ok(())
}

async fn touch_keys(world: &World, store: &Store) -> Result<()> {
    let keys: Vec<_> = world.tenants().await.into_iter().flat_map(|tenant| tenant.keys).collect();
    store.system().touch_keys(&keys, world.now()).await
}

async fn count_events(world: &World, store: &Store) -> Result<()> {
    let events = world.tenants().await.map(|tenant| (tenant.org, 1));
    store.system().add_month_events(Month::of(at(0)), &events).await?;
    Ok(())
}

/// A day that has no partitions yet, and every dedup key is old.
async fn maintain(world: &World, store: &Store) -> Result<()> {
    let day = world.now().since(at(0)).as_secs() / 5_000;
    let now = at(0).plus(Duration::from_hours(24 * (9_000 + day)));
    store.system().maintain(now).await
}
