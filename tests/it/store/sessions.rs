//! Sessions of the console: few per key, found by the hash of their token, gone with their key and when they have ended.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hookgate::domain::{
    Actor, ApiKeyId, ConsoleSession, OrgId, PortalChange, PortalGrant, PortalSettings, Role, Scope,
    Scopes, SessionGrants, SessionKind,
};
use hookgate::store::SessionHash;

use super::fixtures::{add_org, at, some_key};
use super::{Subject, on_both};

on_both!(
    oldest_session_of_a_key_ends_beyond_its_number,
    link_is_exchanged_once,
    sessions_end_one_by_one_and_together_and_servers_learn_of_it,
    sessions_that_have_ended_are_deleted,
    looking_into_an_organisation_is_audited,
    portal_of_an_account_is_opened_once_and_audited,
    looks_of_the_portal_are_kept_and_their_changes_audited,
);

const DAY: Duration = Duration::from_hours(24);
const SOMEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

async fn add_key(subject: &Subject) -> ApiKeyId {
    let org = add_org(subject).await;
    let key = some_key(Role::Tenant(org), at(0));
    subject.store.system().insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    key.id
}

fn hash(number: u8) -> SessionHash {
    [number; 32]
}

fn session(key: ApiKeyId, seconds: i64) -> ConsoleSession {
    ConsoleSession::new(key, SessionKind::Console, at(seconds), DAY)
}

async fn is_there(subject: &Subject, number: u8) -> bool {
    subject.store.system().session(&hash(number)).await.unwrap().is_some()
}

async fn oldest_session_of_a_key_ends_beyond_its_number(subject: &Subject) {
    let (key, other) = (add_key(subject).await, add_key(subject).await);
    let system = subject.store.system();
    system.insert_session(&hash(200), &session(other, 0)).await.unwrap();
    let most = u8::try_from(SessionKind::Console.per_key_max()).unwrap();
    for number in 0..most {
        assert!(!system.insert_session(&hash(number), &session(key, number.into())).await.unwrap());
    }
    assert!(system.insert_session(&hash(most), &session(key, most.into())).await.unwrap());
    assert!(!is_there(subject, 0).await);
    assert!(is_there(subject, 1).await && is_there(subject, most).await);
    assert!(is_there(subject, 200).await, "another key's");
    let found = system.session(&hash(1)).await.unwrap().unwrap();
    assert_eq!(found, session(key, 1));
    system.note_session_used(&hash(1), at(500)).await.unwrap();
    system.note_session_used(&hash(1), at(400)).await.unwrap();
    assert_eq!(system.session(&hash(1)).await.unwrap().unwrap().last_used_at, at(500));
}

async fn link_is_exchanged_once(subject: &Subject) {
    let key = add_key(subject).await;
    let system = subject.store.system();
    let link = ConsoleSession::new(key, SessionKind::Link, at(0), DAY);
    system.insert_session(&hash(1), &link).await.unwrap();
    let late = system.exchange_link(&hash(1), &hash(2), SOMEWHERE, at(0).plus(DAY)).await.unwrap();
    assert!(late.is_none() && is_there(subject, 1).await);
    let opened = system.exchange_link(&hash(1), &hash(2), SOMEWHERE, at(5)).await.unwrap();
    let kind = SessionKind::Console;
    let session = ConsoleSession::new(key, kind, at(5), ConsoleSession::LASTS);
    assert_eq!(opened, Some((session, false)), "no other session has ended for it");
    assert!(!is_there(subject, 1).await && is_there(subject, 2).await);
    assert!(system.exchange_link(&hash(1), &hash(3), SOMEWHERE, at(5)).await.unwrap().is_none());
    assert!(system.exchange_link(&hash(2), &hash(3), SOMEWHERE, at(5)).await.unwrap().is_none());
}

async fn portal_of_an_account_is_opened_once_and_audited(subject: &Subject) {
    let org = add_org(subject).await;
    let key = some_key(Role::Tenant(org), at(0));
    let (store, system) = (&subject.store, subject.store.system());
    system.insert_key(&key, &Actor::CLI).await.unwrap().unwrap();
    let scopes = Scopes::of(Scope::EventsRead);
    let grant = PortalGrant { scopes, lasts_seconds: 3600, return_url: None };
    let link = |account: &str, seconds| {
        ConsoleSession::portal_link(key.id, account.to_owned(), grant.clone(), at(seconds))
    };
    let by = Actor::key(key.id, Some(SOMEWHERE));
    let most = u8::try_from(SessionKind::PortalLink.per_account_max()).unwrap();
    assert!(store.insert_portal_link(org, &hash(100), &link("other", 0), &by).await.unwrap());
    for number in 0..=most {
        let link = link("acme", number.into());
        assert!(store.insert_portal_link(org, &hash(number), &link, &by).await.unwrap());
    }
    assert!(!is_there(subject, 0).await, "the oldest of the account has ended");
    assert!(is_there(subject, 1).await && is_there(subject, 100).await, "not another account's");
    let opened = system.exchange_link(&hash(1), &hash(200), SOMEWHERE, at(60)).await.unwrap();
    let (opened, _) = opened.unwrap();
    assert_eq!((opened.kind, opened.account_id.as_deref()), (SessionKind::Portal, Some("acme")));
    assert_eq!(system.session(&hash(200)).await.unwrap(), Some(opened));
    assert!(system.exchange_link(&hash(1), &hash(201), SOMEWHERE, at(60)).await.unwrap().is_none());
    let page = hookgate::domain::PageRequest::first(100);
    let entries = store.audit_log(org, page).await.unwrap().data;
    let opening = entries.iter().find(|entry| entry.action == "portal.open").unwrap();
    assert_eq!(opening.changes["portal_account_id"], "acme");
    assert_eq!(opening.address.as_deref(), Some("192.0.2.1"));
    let made = entries.iter().filter(|entry| entry.action == "portal_link.create").count();
    assert_eq!(made, usize::from(most) + 2);
    let nobody = OrgId::mint(at(1));
    assert!(!store.insert_portal_link(nobody, &hash(9), &link("a", 0), &by).await.unwrap());
}

async fn looks_of_the_portal_are_kept_and_their_changes_audited(subject: &Subject) {
    let (org, store) = (add_org(subject).await, &subject.store);
    assert_eq!(store.portal_settings(org).await.unwrap(), PortalSettings::default());
    let change = PortalChange {
        name: Some(Some("Acme".to_owned())),
        colour: Some(Some("#3545b0".parse().unwrap())),
        logo: Some(Some("data:image/png;base64,iVBORw0KGgo=".parse().unwrap())),
        allowed_origins: Some(vec!["https://app.example.com".parse().unwrap()]),
    };
    let changed = store.change_portal(org, &change, &Actor::CLI, at(1)).await.unwrap().unwrap();
    assert_eq!(store.portal_settings(org).await.unwrap(), changed);
    let reset = PortalChange { colour: Some(None), ..PortalChange::default() };
    store.change_portal(org, &reset, &Actor::CLI, at(2)).await.unwrap().unwrap();
    let after = store.portal_settings(org).await.unwrap();
    assert_eq!((after.colour, &after.logo), (None, &changed.logo));
    let page = hookgate::domain::PageRequest::first(10);
    let entries = store.audit_log(org, page).await.unwrap().data;
    let told = entries.iter().filter(|entry| entry.action == "portal.update").count();
    assert_eq!((told, &entries[1].changes["logo"]), (2, &serde_json::json!("changed")));
    let nobody = OrgId::mint(at(1));
    assert!(store.change_portal(nobody, &change, &Actor::CLI, at(1)).await.unwrap().is_none());
}

async fn sessions_end_one_by_one_and_together_and_servers_learn_of_it(subject: &Subject) {
    let key = add_key(subject).await;
    let system = subject.store.system();
    for number in 1..=3 {
        system.insert_session(&hash(number), &session(key, 0)).await.unwrap();
    }
    let changed = async |since| {
        let found = system.keys_changed(Some(since)).await.unwrap();
        (found.changes.iter().any(|change| change.key == key), found.mark)
    };
    let mark = system.keys_changed(None).await.unwrap().mark;
    system.end_session(&hash(1), key, at(10)).await.unwrap();
    assert!(!is_there(subject, 1).await && is_there(subject, 2).await);
    let (is_told, mark) = changed(mark).await;
    assert!(is_told);
    assert_eq!(system.end_sessions(key, at(20)).await.unwrap(), 2);
    assert!(changed(mark).await.0);
    assert!(!is_there(subject, 3).await);
}

async fn sessions_that_have_ended_are_deleted(subject: &Subject) {
    let key = add_key(subject).await;
    let system = subject.store.system();
    system.insert_session(&hash(1), &session(key, 0)).await.unwrap();
    system.insert_session(&hash(2), &session(key, 3600)).await.unwrap();
    system.maintain(at(3600).plus(DAY).minus(Duration::from_secs(1))).await.unwrap();
    assert!(!is_there(subject, 1).await && is_there(subject, 2).await);
}

async fn looking_into_an_organisation_is_audited(subject: &Subject) {
    let org = add_org(subject).await;
    let operator = some_key(Role::Operator, at(0));
    let system = subject.store.system();
    system.insert_key(&operator, &Actor::CLI).await.unwrap().unwrap();
    system.insert_session(&hash(1), &session(operator.id, 0)).await.unwrap();
    let grants = SessionGrants { viewed_org: Some(org), portal: None };
    let by = Actor::key(operator.id, None);
    let mark = system.keys_changed(None).await.unwrap().mark;
    system.view_org((&hash(1), operator.id), (&grants, org), &by, at(1)).await.unwrap();
    assert_eq!(system.session(&hash(1)).await.unwrap().unwrap().grants, grants);
    let told = system.keys_changed(Some(mark)).await.unwrap().changes;
    assert!(told.iter().any(|change| change.key == operator.id), "other servers learn of it");
    // A session that has ended looks into nothing.
    system.view_org((&hash(9), operator.id), (&grants, org), &by, at(2)).await.unwrap();
    let page = hookgate::domain::PageRequest::first(10);
    let entries = subject.store.audit_log(org, page).await.unwrap().data;
    let views: Vec<_> = entries.iter().filter(|entry| entry.action == "org.view").collect();
    let [entry] = &views[..] else { panic!("{views:?}") };
    assert_eq!((&entry.actor, entry.object), (&operator.id.to_string(), org.uuid()));
}
