//! The operations on inboxes.

use std::sync::Arc;
use std::time::Duration;

use hookgate::domain::{Actor, Event, EventId, InstanceId, Lease, LeaseToken, NewEndpoint};
use hookgate::store::{InboxLookup, InboxSettle, ReceiveRequest, Result, Store};

use super::super::fixtures::{named_event, persist_events, some_event};
use super::{Tenant, World};

/// Receives what waits in the default inboxes, gives half of it back and settles all.
pub(super) async fn consume_inboxes(world: &World, store: &Store) -> Result<()> {
    for Tenant { org, .. } in world.tenants().await {
        let now = world.now();
        let new = NewEndpoint::inbox().into_endpoint(org, now).unwrap();
        let opened = store.open_default_inbox(org, &new, &Actor::CLI).await?;
        let Ok(InboxLookup::Found(inbox)) = opened else { continue };
        let events = [named_event(org, "z", now), some_event(org, "a.b", now)];
        let events: Vec<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        persist_events(store, &events, None, now).await?;
        let token = LeaseToken::mint(InstanceId::OF_INBOXES);
        let request = ReceiveRequest {
            inbox: &inbox,
            events_max: 50,
            bytes_max: 1 << 20,
            event_type: None,
            lease: Lease { token, until: now.plus(Duration::from_secs(1)) },
            now,
        };
        let received = store.receive(org, request).await?;
        store.system().record_outcomes(&received.exhausted).await?;
        let ids: Vec<EventId> = received.events.iter().map(|one| one.event.id).collect();
        let (half, _) = ids.split_at(ids.len() / 2);
        store.give_back(org, request, half, now).await?;
        let settle = |event: &EventId| InboxSettle { org, inbox: inbox.id, event: *event };
        let settles: Vec<_> = ids.iter().rev().map(settle).collect();
        store.system().settle(&settles, now).await?;
    }
    Ok(())
}

pub(super) async fn pause_and_resume_inboxes(world: &World, store: &Store) -> Result<()> {
    let now = world.now();
    let paused = store.system().pause_idle_inboxes(now.plus(Duration::from_secs(1)), now).await?;
    for (org, inbox) in paused {
        store.note_inbox_read(org, inbox, now).await?;
        store.resume_inbox(org, inbox, &Actor::CLI, now).await?;
    }
    Ok(())
}
