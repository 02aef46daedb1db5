//! Endpoints that fail, of all organisations.

use hookgate::domain::{Actor, Endpoint, InstanceId, ListOrder, PageRequest};
use hookgate::store::ServerRow;

use super::fixtures::{add_org, at, some_endpoint, walk_in};
use super::{Subject, on_both};

on_both!(
    endpoints_that_fail_are_listed_in_both_orders_by_their_index,
    endpoints_of_one_organisation_that_fail_or_are_disabled_are_found_by_an_index,
    servers_are_listed_with_their_last_heartbeat,
);

async fn endpoints_that_fail_are_listed_in_both_orders_by_their_index(subject: &Subject) {
    let by = &Actor::CLI;
    let mut failing = Vec::new();
    for org in [add_org(subject).await, add_org(subject).await] {
        for since in [None, Some(30), Some(10), Some(20), Some(20), None] {
            let endpoint = Endpoint { failing_since: since.map(at), ..some_endpoint(org, "*") };
            subject.store.insert_endpoint(org, &endpoint, by).await.unwrap().unwrap();
            failing.extend(since.map(|since| (at(since), endpoint.id)));
        }
        let removed = Endpoint { failing_since: Some(at(25)), ..some_endpoint(org, "*") };
        subject.store.insert_endpoint(org, &removed, by).await.unwrap().unwrap();
        assert!(subject.store.delete_endpoint(org, removed.id, by, at(40)).await.unwrap());
    }
    failing.sort_unstable_by_key(|(since, id)| (*since, id.uuid()));
    let (store, plans) = subject.store.recording_plans();
    for order in [ListOrder::OldestFirst, ListOrder::NewestFirst] {
        for limit in [1, 3, 100] {
            let list = async |p| store.system().failing_endpoints(p).await;
            let seen = walk_in(order, limit, list).await;
            let seen: Vec<_> = seen.iter().map(|row| (row.failing_since, row.id)).collect();
            let mut expected = failing.clone();
            if order == ListOrder::NewestFirst {
                expected.reverse();
            }
            assert_eq!(seen, expected, "{order:?} {limit}");
        }
    }
    let page = PageRequest { order: ListOrder::OldestFirst, ..PageRequest::first(1) };
    let first = store.system().failing_endpoints(page).await.unwrap();
    assert_eq!(first.data[0].url, "https://example.com/hooks?…");
    if !subject.is_postgres() {
        // PostgreSQL walks a table of a dozen rows whatever its indexes are.
        for plan in plans.take() {
            assert!(plan.contains("endpoints_failing") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }
}

async fn endpoints_of_one_organisation_that_fail_or_are_disabled_are_found_by_an_index(
    subject: &Subject,
) {
    let (org, other) = (add_org(subject).await, add_org(subject).await);
    let mut ids = Vec::new();
    for (org, since, disabled) in [
        (org, None, true),
        (org, Some(20), false),
        (org, None, false),
        (org, Some(10), true),
        (other, Some(5), false),
    ] {
        let endpoint = Endpoint {
            failing_since: since.map(at),
            disabled_reason: disabled.then(|| "gone".to_owned()),
            ..some_endpoint(org, "*")
        };
        subject.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
        ids.push(endpoint.id);
    }
    let (store, plans) = subject.store.recording_plans();
    for (limit, expected) in [(10, &[ids[3], ids[1], ids[0]][..]), (1, &[ids[3]])] {
        let found = store.failing_or_disabled_endpoints(org, limit).await.unwrap();
        let found: Vec<_> = found.iter().map(|endpoint| endpoint.id).collect();
        assert_eq!(found, expected);
    }
    if !subject.is_postgres() {
        for plan in plans.take() {
            assert!(plan.contains("endpoints_failing_by_org"), "{plan}");
        }
    }
}

async fn servers_are_listed_with_their_last_heartbeat(subject: &Subject) {
    let server = |id, host: &str, started| ServerRow {
        id: InstanceId::new(id),
        journal_id: id,
        directory: String::new(),
        host: host.to_owned(),
        version: "1.2.3",
        started_at: at(started),
    };
    let system = subject.store.system();
    for row in [server(1, "one", 1), server(u64::MAX, "two", 2)] {
        system.beat(&row, at(5)).await.unwrap();
    }
    let listed = system.servers().await.unwrap();
    let shown: Vec<_> =
        listed.iter().map(|row| (row.id, row.host.as_str(), row.is_alive)).collect();
    let expected = [(InstanceId::new(u64::MAX), "two", true), (InstanceId::new(1), "one", true)];
    assert_eq!(shown, expected);
    assert_eq!((listed[0].version.as_str(), listed[0].started_at), ("1.2.3", at(2)));
    if !subject.is_postgres() {
        assert_eq!(listed[0].heartbeat_at, at(5));
    }
}
