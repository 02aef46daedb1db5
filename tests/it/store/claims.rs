use std::collections::HashSet;
use std::sync::Arc;

use hookgate::domain::{
    Actor, DeliveryFilter, DeliveryPolicy, Endpoint, EndpointId, InstanceId, Lease, LeaseToken,
    OrgId,
};
use hookgate::store::{ClaimedDeliveries, LeaseGrant};
use tokio::task::JoinSet;

use super::fixtures::{
    FIRST_PAGE, add_endpoint, add_org, at, claim, claim_from, org_with_deliveries, persist, room,
    some_endpoint, some_event,
};
use super::{Subject, on_both};
use crate::support::store::{Room, due_endpoints};

on_both!(
    claim_takes_the_longest_due_first_and_no_more_than_there_is_room_for,
    claim_brings_all_that_an_attempt_needs,
    deliveries_of_one_event_share_it,
    what_is_leased_is_claimed_again_only_when_the_lease_lapses,
    server_that_starts_again_lets_go_of_its_own_leases_only,
    leased_delivery_shows_no_next_attempt,
    endpoints_left_out_keep_their_deliveries,
    claimers_at_once_never_share_a_delivery,
    claim_takes_as_many_of_each_endpoint_as_are_granted,
    claim_brings_no_more_bytes_of_an_endpoint_than_granted_and_tells_what_did_not_fit,
    nothing_is_claimed_of_a_disabled_or_removed_endpoint_or_of_one_to_pull_from,
    what_is_being_cancelled_is_not_claimed,
    event_that_cannot_be_read_stops_no_claim,
    oldest_due_delivery_is_told_beside_a_backlog_of_a_disabled_endpoint,
    oldest_due_delivery_is_told_beside_a_backlog_of_a_paused_endpoint,
    backlog_of_one_endpoint_hides_no_other,
);

async fn claim_takes_the_longest_due_first_and_no_more_than_there_is_room_for(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    let mut planned = Vec::new();
    for due in [30, 10, 20] {
        let event = some_event(org, "a.b", at(0));
        persist(subject, std::slice::from_ref(&event), at(due)).await;
        planned.push(event.id);
    }
    let events = |leased: Vec<hookgate::domain::LeasedDelivery>| {
        leased.iter().map(|l| l.event.id).collect::<Vec<_>>()
    };
    assert_eq!(events(claim(subject, 5, at(9)).await), []);
    assert_eq!(events(claim(subject, 0, at(30)).await), []);
    assert_eq!(events(claim(subject, 2, at(30)).await), [planned[1], planned[2]]);
    assert_eq!(events(claim(subject, 2, at(30)).await), [planned[0]]);
}

async fn server_that_starts_again_lets_go_of_its_own_leases_only(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 2).await;
    let lease_of = |instance| {
        let token = LeaseToken::mint(InstanceId::new(instance));
        Room { lease: Lease { token, until: at(1000) }, deliveries_max: 1, except: &[] }
    };
    let mine = claim_from(&subject.store, lease_of(7), &[], at(10)).await;
    let others = claim_from(&subject.store, lease_of(8), &[], at(10)).await;
    assert_eq!((mine.len(), others.len()), (1, 1), "{org}");

    let instance = InstanceId::new(7);
    assert_eq!(subject.store.system().release_leases(instance, at(20)).await.unwrap(), 1);
    assert_eq!(subject.store.system().release_leases(instance, at(20)).await.unwrap(), 0);
    let again = claim(subject, 5, at(20)).await;
    assert_eq!(again.iter().map(|l| l.id).collect::<Vec<_>>(), [mine[0].id]);
}

async fn claim_brings_all_that_an_attempt_needs(subject: &Subject) {
    let org = add_org(subject).await;
    let endpoint = add_endpoint(subject, org, "*").await;
    let event = some_event(org, "a.b", at(0));
    persist(subject, std::slice::from_ref(&event), at(0)).await;
    let space = room(1, at(60));
    let store = &subject.store;
    let leased = claim_from(store, space, &[], at(0)).await.remove(0);
    assert_eq!((&*leased.event, leased.attempts), (&event, 0));
    assert_eq!((leased.endpoint.id, &leased.endpoint.url), (endpoint.id, &endpoint.url));
    assert_eq!((leased.endpoint.org_id, &leased.endpoint.secrets), (org, &endpoint.secrets));
    assert_eq!((leased.lease.token, leased.lease.until), (space.lease.token, at(60)));
}

async fn deliveries_of_one_event_share_it(subject: &Subject) {
    let org = add_org(subject).await;
    add_endpoint(subject, org, "*").await;
    add_endpoint(subject, org, "a.*").await;
    persist(subject, &[some_event(org, "a.b", at(0))], at(0)).await;
    let leased = claim(subject, 2, at(0)).await;
    assert!(Arc::ptr_eq(&leased[0].event, &leased[1].event));
    assert_ne!(leased[0].endpoint.id, leased[1].endpoint.id);
}

async fn what_is_leased_is_claimed_again_only_when_the_lease_lapses(subject: &Subject) {
    org_with_deliveries(subject, 1).await;
    let first = claim(subject, 1, at(0)).await.remove(0);
    assert_eq!(claim(subject, 1, at(59)).await.len(), 0);
    let second = claim(subject, 1, at(60)).await.remove(0);
    assert_eq!((second.id, second.attempts), (first.id, 0));
    assert_ne!(second.lease.token, first.lease.token);
}

async fn leased_delivery_shows_no_next_attempt(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let shown = async || {
        let filter = DeliveryFilter::default();
        let page = subject.store.deliveries(org, &filter, FIRST_PAGE).await.unwrap();
        page.data[0].next_attempt_at
    };
    assert_eq!(shown().await, Some(at(0)));
    claim(subject, 1, at(0)).await;
    assert_eq!(shown().await, None);
}

async fn endpoints_left_out_keep_their_deliveries(subject: &Subject) {
    let org = add_org(subject).await;
    let slow = add_endpoint(subject, org, "*").await;
    let stuck = add_endpoint(subject, org, "*").await;
    let fast = add_endpoint(subject, org, "*").await;
    persist(subject, &[some_event(org, "a.b", at(0))], at(0)).await;
    let except = [slow.id, stuck.id];
    let store = &subject.store;
    let leased = claim_from(store, room(9, at(60)), &except, at(0)).await;
    assert_eq!(leased.iter().map(|l| l.endpoint.id).collect::<Vec<_>>(), [fast.id]);
    assert_eq!(claim(subject, 9, at(0)).await.len(), 2);
}

async fn claimers_at_once_never_share_a_delivery(subject: &Subject) {
    org_with_deliveries(subject, 200).await;
    let mut claimers = JoinSet::new();
    for _ in 0..4 {
        let store = subject.another().await;
        claimers.spawn(async move {
            let mut claimed = Vec::new();
            // A claim that another one passes over may come back empty; more than enough rounds.
            for _ in 0..60 {
                let space = room(7, at(60));
                let leased = claim_from(&store, space, &[], at(0)).await;
                claimed.extend(leased.iter().map(|l| l.id));
            }
            claimed
        });
    }
    let claimed: Vec<_> = claimers.join_all().await.concat();
    let distinct: HashSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), distinct.len()), (200, 200));
}

async fn claim_takes_as_many_of_each_endpoint_as_are_granted(subject: &Subject) {
    let (first, busy) = org_with_deliveries(subject, 50).await;
    let (second, quiet) = org_with_deliveries(subject, 2).await;
    let (third, left_out) = org_with_deliveries(subject, 2).await;
    let grant = |org, endpoint: &Endpoint, deliveries_max| LeaseGrant {
        endpoint: endpoint.id,
        org,
        ordered: false,
        deliveries_max,
        bytes_max: usize::MAX,
    };
    let grants = [grant(first, &busy, 3), grant(second, &quiet, 5), grant(third, &left_out, 0)];
    let claimed = lease(subject, &grants).await.deliveries;
    let of = |id| claimed.iter().filter(|claimed| claimed.endpoint_id == id).count();
    assert_eq!((of(busy.id), of(quiet.id), of(left_out.id)), (3, 2, 0));
}

async fn claim_brings_no_more_bytes_of_an_endpoint_than_granted_and_tells_what_did_not_fit(
    subject: &Subject,
) {
    let (org, endpoint) = org_with_deliveries(subject, 5).await;
    let (other_org, other) = org_with_deliveries(subject, 5).await;
    let (ordered_org, ordered) = org_with_ordered_delivery(subject).await;
    let bytes = some_event(org, "a.b", at(0)).payload.len();
    let claim = async |bytes_max: [usize; 3]| {
        let ids = [(org, endpoint.id), (other_org, other.id), (ordered_org, ordered)];
        let grants: Vec<LeaseGrant> = ids
            .into_iter()
            .zip(bytes_max)
            .map(|((org, endpoint), bytes_max)| LeaseGrant {
                bytes_max,
                ordered: endpoint == ordered,
                ..grant(org, endpoint)
            })
            .collect();
        let claimed = lease(subject, &grants).await;
        let count = |id| claimed.deliveries.iter().filter(|it| it.endpoint_id == id).count();
        let size = |id| claimed.too_large.get(&id).copied();
        ids.map(|(_, id)| (count(id), size(id)))
    };
    let found = claim([2 * bytes + 1, bytes - 1, bytes - 1]).await;
    assert_eq!(found, [(2, Some(bytes)), (0, Some(bytes)), (0, Some(bytes))]);
    assert_eq!(claim([0, 4 * bytes, bytes]).await, [(0, Some(bytes)), (4, Some(bytes)), (1, None)]);
    assert_eq!(claim([3 * bytes, bytes, 0]).await, [(3, None), (1, None), (0, None)]);
}

/// An organisation with one delivery to an ordered endpoint.
async fn org_with_ordered_delivery(subject: &Subject) -> (OrgId, EndpointId) {
    let org = add_org(subject).await;
    let policy = DeliveryPolicy { ordered: true, ..DeliveryPolicy::default() };
    let endpoint = Endpoint { policy, ..some_endpoint(org, "*") };
    subject.store.insert_endpoint(org, &endpoint, &Actor::CLI).await.unwrap().unwrap();
    let event = some_event(org, "a.b", at(0));
    persist(subject, std::slice::from_ref(&event), at(0)).await;
    (org, endpoint.id)
}

/// A grant for as many bytes as there are.
fn grant(org: OrgId, endpoint: EndpointId) -> LeaseGrant {
    LeaseGrant { endpoint, org, ordered: false, deliveries_max: 5, bytes_max: usize::MAX }
}

async fn lease(subject: &Subject, grants: &[LeaseGrant]) -> ClaimedDeliveries {
    let lease = room(0, at(60)).lease;
    subject.store.system().lease_deliveries(grants, lease, at(0)).await.unwrap()
}

async fn nothing_is_claimed_of_a_disabled_or_removed_endpoint_or_of_one_to_pull_from(
    subject: &Subject,
) {
    for made in ["disabled_reason = 'x'", "removed_at = created_at", "kind = 'pull'"] {
        let (org, endpoint) = org_with_deliveries(subject, 2).await;
        let update = format!("UPDATE endpoints SET {made}");
        subject.raw(&update, &update).await;
        assert_eq!(due_endpoints(&subject.store, at(0)).await, [], "{made}");
        assert_eq!(subject.store.system().oldest_due(at(0), &[]).await.unwrap(), None, "{made}");
        let claimed = lease(subject, &[grant(org, endpoint.id)]).await;
        assert_eq!(claimed.deliveries.len(), 0, "{made}");
    }
}

async fn what_is_being_cancelled_is_not_claimed(subject: &Subject) {
    let (org, endpoint) = org_with_deliveries(subject, 3).await;
    let set = |sqlite: &str, postgres: &str| {
        let update = |time| format!("UPDATE endpoints SET cancel_before = {time}");
        (update(sqlite), update(postgres))
    };
    let micros = at(5).micros().to_string();
    let (sqlite, postgres) = set(&micros, &format!("'{}'", at(5)));
    subject.raw(&sqlite, &postgres).await;
    assert_eq!(due_endpoints(&subject.store, at(10)).await, []);
    let lease = async || {
        let lease = room(0, at(60)).lease;
        let grants = [grant(org, endpoint.id)];
        let claim = subject.store.system().lease_deliveries(&grants, lease, at(10));
        claim.await.unwrap().deliveries
    };
    assert_eq!(lease().await.len(), 0);
    let late = [some_event(org, "a.b", at(5)), some_event(org, "a.b", at(6))];
    assert_eq!(persist(subject, &late, at(7)).await.planned, 1, "nor planned");
    assert_eq!(due_endpoints(&subject.store, at(10)).await.len(), 1);
    let claimed = lease().await;
    assert_eq!(claimed.iter().map(|c| c.event.id).collect::<Vec<_>>(), [late[1].id]);
}

async fn event_that_cannot_be_read_stops_no_claim(subject: &Subject) {
    let (org, _) = org_with_deliveries(subject, 1).await;
    let spoil = "UPDATE events SET event_type = ''";
    subject.raw(spoil, spoil).await;
    let good = some_event(org, "a.b", at(0));
    persist(subject, std::slice::from_ref(&good), at(0)).await;
    let claimed = claim(subject, 5, at(0)).await;
    assert_eq!(claimed.iter().map(|leased| leased.event.id).collect::<Vec<_>>(), [good.id]);
}

async fn oldest_due_delivery_is_told_beside_a_backlog_of_a_disabled_endpoint(subject: &Subject) {
    let oldest = async |now| subject.store.system().oldest_due(at(now), &[]).await.unwrap();
    assert_eq!(oldest(0).await, None);
    org_with_deliveries(subject, 2_000).await;
    assert_eq!(oldest(7).await, Some(at(0)));
    let disable = "UPDATE endpoints SET disabled_reason = 'x'";
    subject.raw(disable, disable).await;
    assert_eq!(oldest(7).await, None);
    let (org, _) = org_with_deliveries(subject, 0).await;
    persist(subject, &[some_event(org, "a.b", at(0))], at(5)).await;
    assert_eq!(oldest(4).await, None);
    assert_eq!(oldest(7).await, Some(at(5)));
}

async fn oldest_due_delivery_is_told_beside_a_backlog_of_a_paused_endpoint(subject: &Subject) {
    for deliveries in [3, 2_000] {
        let (_, paused) = org_with_deliveries(subject, deliveries).await;
        let (org, other) = org_with_deliveries(subject, 0).await;
        let oldest = async |paused: &[EndpointId]| {
            subject.store.system().oldest_due(at(7), paused).await.unwrap()
        };
        assert_eq!(oldest(&[]).await, Some(at(0)), "{deliveries}");
        assert_eq!(oldest(&[paused.id]).await, None, "{deliveries}");
        persist(subject, &[some_event(org, "a.b", at(0))], at(5)).await;
        assert_eq!(oldest(&[paused.id]).await, Some(at(5)), "{deliveries}");
        assert_eq!(oldest(&[paused.id, other.id]).await, None, "{deliveries}");
        let disable = "UPDATE endpoints SET disabled_reason = 'x'";
        subject.raw(disable, disable).await;
    }
}

async fn backlog_of_one_endpoint_hides_no_other(subject: &Subject) {
    // Due before the others, and more than the window that a claim looks at first.
    let (_, dead) = org_with_deliveries(subject, 3_000).await;
    let mut others = HashSet::new();
    for _ in 0..5 {
        let (org, endpoint) = org_with_deliveries(subject, 0).await;
        persist(subject, &[some_event(org, "a.b", at(0))], at(50)).await;
        others.insert(endpoint.id);
    }
    let claimed = claim_from(&subject.store, room(100, at(160)), &[dead.id], at(60)).await;
    assert_eq!(claimed.iter().map(|l| l.endpoint.id).collect::<HashSet<_>>(), others);
    // With a share each, the backlog does not take it all.
    let claimed = claim(subject, 100, at(200)).await;
    let dead_ones = claimed.iter().filter(|leased| leased.endpoint.id == dead.id).count();
    assert_eq!((claimed.len() - dead_ones, dead_ones <= 17), (5, true), "{dead_ones}");
}
