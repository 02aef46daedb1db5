//! Inboxes: opening, disabling and pausing them, and whose they are.

use hookgate::domain::{
    Actor, EndpointChange, EndpointId, EventFilter, EventId, INBOX_IDLE, Inbox, NewEndpoint, OrgId,
    SettleStatus,
};
use hookgate::store::{ClaimCursor, InboxLookup, Store};

use super::super::fixtures::{
    ALL_LETTERS, FIRST_PAGE, add_endpoint, add_org, at, claim, named_event, persist, some_event,
};
use super::{
    Subject, add_inbox, found, ids, on_both, org_with_events, receive, receive_max, request,
    settle, status,
};
use crate::support::store::due_endpoints;

on_both!(
    status_tells_what_became_of_an_event,
    inbox_is_its_organisations_alone,
    default_inbox_is_opened_once_beside_the_quota,
    disabled_and_removed_inboxes_give_nothing_out,
    idle_inbox_is_paused_and_its_owner_told,
    inbox_that_is_enabled_again_counts_as_read,
    nothing_of_an_inbox_is_sent_and_its_backlog_hides_no_webhook,
    delivery_whose_event_is_gone_expires_when_it_is_received,
    delivery_whose_payload_is_gone_expires_when_it_is_received,
    delivery_whose_event_cannot_be_read_waits,
);

async fn status_tells_what_became_of_an_event(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 2).await;
    let named = named_event(org, "invoice-1", at(5));
    persist(subject, std::slice::from_ref(&named), at(5)).await;
    assert_eq!(status(subject, org, &inbox, named.id).await, SettleStatus::NotReceived);
    receive(subject, org, &inbox, 10).await;
    assert_eq!(settle(subject, org, &inbox, &[named.id]).await, 1);
    assert_eq!(status(subject, org, &inbox, named.id).await, SettleStatus::Acked);
    subject.store.cancel_pending(org, inbox.id, &Actor::CLI, at(20)).await.unwrap().unwrap();
    assert_eq!(settle(subject, org, &inbox, &events).await, 0);
    assert_eq!(status(subject, org, &inbox, events[0]).await, SettleStatus::Cancelled);
    let unknown = EventId::mint(at(3));
    assert_eq!(status(subject, org, &inbox, unknown).await, SettleStatus::Unknown);
}

async fn inbox_is_its_organisations_alone(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 1).await;
    let stranger = add_org(subject).await;
    assert!(receive(subject, stranger, &inbox, 1).await.is_empty());
    assert_eq!(receive(subject, org, &inbox, 1).await.len(), 1);
    assert_eq!(settle(subject, stranger, &inbox, &events).await, 0);
    let back = subject.store.give_back(stranger, request(&inbox, at(2)), &events, at(2));
    assert!(back.await.unwrap().0.is_empty());
    assert_eq!(status(subject, stranger, &inbox, events[0]).await, SettleStatus::Unknown);
    let lookup = subject.store.inbox(stranger, Some(inbox.id)).await.unwrap();
    assert_eq!(lookup, InboxLookup::Missing);
    assert_eq!(settle(subject, org, &inbox, &events).await, 1);
}

async fn open_default(store: &Store, org: OrgId, seconds: i64) -> Inbox {
    let new = NewEndpoint::inbox().into_endpoint(org, at(seconds)).unwrap();
    found(store.open_default_inbox(org, &new, &Actor::CLI).await.unwrap().unwrap())
}

async fn default_inbox_is_opened_once_beside_the_quota(subject: &Subject) {
    let org = add_org(subject).await;
    let store = &subject.store;
    assert_eq!(store.inbox(org, None).await.unwrap(), InboxLookup::Missing);
    persist(subject, &[some_event(org, "a", at(0))], at(0)).await;
    let (first, second) = tokio::join!(open_default(store, org, 1), open_default(store, org, 1));
    assert_eq!(first.id, second.id);
    assert_eq!(found(store.inbox(org, None).await.unwrap()).id, first.id);
    assert_eq!(store.holdings(org, at(1)).await.unwrap().endpoints, 0);
    let later = some_event(org, "a", at(2));
    persist(subject, std::slice::from_ref(&later), at(2)).await;
    assert_eq!(ids(&receive(subject, org, &first, 3).await), [later.id], "from then on");
    assert!(store.delete_endpoint(org, first.id, &Actor::CLI, at(4)).await.unwrap());
    assert_eq!(store.inbox(org, None).await.unwrap(), InboxLookup::Missing);
    assert_ne!(open_default(store, org, 5).await.id, first.id);
    let nobody = OrgId::mint(at(0));
    let new = NewEndpoint::inbox().into_endpoint(nobody, at(5)).unwrap();
    assert!(store.open_default_inbox(nobody, &new, &Actor::CLI).await.unwrap().is_err());
}

async fn disabled_and_removed_inboxes_give_nothing_out(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 2).await;
    receive_max(&subject.store, org, &inbox, 1, at(10)).await;
    let switch = async |reason: Option<&str>| {
        let disabled_reason = Some(reason.map(str::to_owned));
        let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
        let changed =
            subject.store.update_endpoint(org, inbox.id, &change, &Actor::CLI, at(11)).await;
        changed.unwrap().unwrap();
    };
    switch(Some("x")).await;
    persist(subject, &[some_event(org, "a.b", at(12))], at(12)).await;
    assert!(receive(subject, org, &inbox, 12).await.is_empty());
    assert_eq!(settle(subject, org, &inbox, &events[..1]).await, 1, "what was received is settled");
    switch(None).await;
    assert_eq!(ids(&receive(subject, org, &inbox, 13).await), events[1..], "it has waited");
    assert!(subject.store.delete_endpoint(org, inbox.id, &Actor::CLI, at(14)).await.unwrap());
    assert!(receive(subject, org, &inbox, 1_000).await.is_empty());
}

async fn idle_inbox_is_paused_and_its_owner_told(subject: &Subject) {
    let org = add_org(subject).await;
    let told = add_endpoint(subject, org, "hookgate.inbox.paused").await;
    let (idle, read) =
        (add_inbox(subject, org, |_| ()).await, add_inbox(subject, org, |_| ()).await);
    let store = &subject.store;
    store.note_inbox_read(org, read.id, at(600)).await.unwrap();
    persist(subject, &[some_event(org, "a", at(601))], at(601)).await;
    let pause =
        async |before: i64| store.system().pause_idle_inboxes(at(before), at(700)).await.unwrap();
    assert_eq!(pause(0).await, []);
    assert_eq!(pause(600).await, [(org, idle.id)]);
    assert_eq!(pause(600).await, []);
    let paused = found(store.inbox(org, Some(idle.id)).await.unwrap());
    assert_eq!(paused.disabled_reason.as_deref(), Some(INBOX_IDLE));
    assert!(paused.is_paused());
    let events = store.events(org, &EventFilter::default(), FIRST_PAGE).await.unwrap();
    assert_eq!(events.data[0].event_type.as_str(), "hookgate.inbox.paused");
    assert_eq!(due_endpoints(store, at(700)).await[0].endpoint, told.id);
    persist(subject, &[some_event(org, "a", at(701))], at(701)).await;
    assert_eq!(store.pending_count(org, idle.id).await.unwrap(), 1, "nothing more is kept");
    store.resume_inbox(org, idle.id, &Actor::CLI, at(702)).await.unwrap();
    let resumed = found(store.inbox(org, Some(idle.id)).await.unwrap());
    assert_eq!((resumed.disabled_reason, resumed.last_read_at), (None, Some(at(702))));
    persist(subject, &[some_event(org, "a", at(703))], at(703)).await;
    assert_eq!(store.pending_count(org, idle.id).await.unwrap(), 2);
}

async fn inbox_that_is_enabled_again_counts_as_read(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |_| ()).await;
    let webhook = add_endpoint(subject, org, "*").await;
    let store = &subject.store;
    let switch = async |id: EndpointId, reason: Option<&str>, seconds: i64| {
        let disabled_reason = Some(reason.map(str::to_owned));
        let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
        let changed = store.update_endpoint(org, id, &change, &Actor::CLI, at(seconds)).await;
        changed.unwrap().unwrap().last_read_at
    };
    let pause =
        async |before: i64| store.system().pause_idle_inboxes(at(before), at(9_000)).await.unwrap();
    assert_eq!(switch(inbox.id, Some("x"), 100).await, Some(at(0)));
    assert_eq!(switch(inbox.id, None, 1_000).await, Some(at(1_000)));
    assert_eq!(pause(1_000).await, []);
    assert_eq!(switch(inbox.id, None, 1_500).await, Some(at(1_000)), "it was enabled");
    for (suspended, seconds) in [(true, 2_000), (false, 3_000)] {
        let changed = store.suspend_org(org, suspended, &Actor::CLI, at(seconds)).await;
        changed.unwrap().unwrap();
    }
    assert_eq!(pause(3_000).await, []);
    assert_eq!(pause(3_001).await, [(org, inbox.id)], "it is read no more");
    switch(inbox.id, None, 4_000).await;
    assert_eq!(pause(4_000).await, []);
    switch(webhook.id, Some("x"), 5_000).await;
    assert_eq!(switch(webhook.id, None, 6_000).await, None, "nobody reads a webhook endpoint");
}

async fn nothing_of_an_inbox_is_sent_and_its_backlog_hides_no_webhook(subject: &Subject) {
    let org = add_org(subject).await;
    let inbox = add_inbox(subject, org, |new| new.event_types = "a.b".parse().unwrap()).await;
    let events: Vec<_> = (0..1_100).map(|_| some_event(org, "a.b", at(0))).collect();
    persist(subject, &events, at(0)).await;
    let webhook = add_endpoint(subject, org, "c").await;
    persist(subject, &[some_event(org, "c", at(1))], at(1)).await;
    let store = &subject.store;
    let look = store.system().due_endpoints(ClaimCursor::default(), at(2)).await.unwrap();
    assert_eq!(look.endpoints.iter().map(|due| due.endpoint).collect::<Vec<_>>(), [webhook.id]);
    assert!(!look.more, "the backlog is not looked at");
    assert_eq!(claim(subject, 2_000, at(2)).await.len(), 1);
    assert_eq!(store.system().oldest_due(at(2), &[]).await.unwrap(), None);
    assert_eq!(store.pending_count(org, inbox.id).await.unwrap(), 1_100);
}

async fn delivery_whose_event_is_gone_expires_when_it_is_received(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 2).await;
    let gone = format!("DELETE FROM events WHERE received_at < {}", at(1).micros());
    let gone_from_days =
        "DELETE FROM events WHERE received_at = (SELECT min(received_at) FROM events)";
    subject.raw(&gone, gone_from_days).await;
    assert_eq!(ids(&receive(subject, org, &inbox, 10).await), [events[1]]);
    assert_eq!(status(subject, org, &inbox, events[0]).await, SettleStatus::Dead);
    let letters = subject.store.dead_letters(org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data;
    let told: Vec<_> =
        letters.iter().map(|letter| (letter.event_id, letter.reason.as_str())).collect();
    assert_eq!(told, [(events[0], "expired")]);
}

async fn delivery_whose_payload_is_gone_expires_when_it_is_received(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 40).await;
    subject.raw("UPDATE events SET payload = x''", "UPDATE events SET payload = ''").await;
    let received = subject.store.receive(org, request(&inbox, at(100))).await.unwrap();
    assert_eq!((received.events.len(), received.expired), (0, 40));
    for event in events {
        assert_eq!(status(subject, org, &inbox, event).await, SettleStatus::Dead);
    }
}

/// The row may be that of a newer version, which is there again later.
async fn delivery_whose_event_cannot_be_read_waits(subject: &Subject) {
    let (org, inbox, events) = org_with_events(subject, 2).await;
    let damage = "UPDATE events SET event_type = ' '
                  WHERE received_at = (SELECT min(received_at) FROM events)";
    subject.raw(damage, damage).await;
    let receive = async |seconds| {
        let received = subject.store.receive(org, request(&inbox, at(seconds))).await.unwrap();
        let ids = received.events.iter().map(|received| received.event.id);
        (ids.collect::<Vec<_>>(), received.expired)
    };
    assert_eq!(receive(100).await, (vec![events[1]], 0));
    let mend = "UPDATE events SET event_type = 'a.b' WHERE event_type = ' '";
    subject.raw(mend, mend).await;
    assert_eq!(receive(1_000).await, (events, 0));
}
