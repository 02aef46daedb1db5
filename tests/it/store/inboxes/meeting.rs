//! Consumers that settle or give back what another one receives at the same moment, in PostgreSQL.

use hookgate::domain::{EventId, Inbox, OrgId};
use hookgate::store::InboxSettle;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::task::JoinSet;

use super::super::Subject;
use super::super::fixtures::at;
use super::{ids, org_with_events, receive, request};

/// Events that were received once, the lease of which is over.
async fn received_events(subject: &Subject) -> (OrgId, Inbox, Vec<EventId>) {
    let (org, inbox, events) = org_with_events(subject, 3).await;
    assert_eq!(ids(&receive(subject, org, &inbox, 10).await), events);
    (org, inbox, events)
}

/// Receives the second event, and leaves it open.
async fn begin_receiving(subject: &Subject, events: &[EventId]) -> PgConnection {
    let mut receiving = subject.connect_postgres().await;
    let receive = format!(
        "BEGIN; UPDATE pending_deliveries
                SET attempts = attempts + 1, due_at = due_at + interval '1 minute'
                WHERE event_id = '{}'",
        events[1].uuid()
    );
    sqlx::raw_sql(AssertSqlSafe(receive)).execute(&mut receiving).await.unwrap();
    receiving
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_settling_counts_although_the_event_is_received_again() {
    let subject = Subject::postgres().await;
    let (org, inbox, events) = received_events(&subject).await;
    let receiving = begin_receiving(&subject, &events).await;
    let settle = |event: &EventId| InboxSettle { org, inbox: inbox.id, event: *event };
    let settles: Vec<_> = events.iter().map(settle).collect();
    let mut settling = JoinSet::new();
    let store = subject.store.clone();
    settling.spawn(async move { store.system().settle(&settles, at(900)).await });
    subject.commit_awaited(receiving).await;
    let mut settled = settling.join_next().await.unwrap().unwrap().unwrap();
    settled.sort_unstable();
    let mut expected: Vec<_> = events.iter().map(|event| (inbox.id, *event)).collect();
    expected.sort_unstable();
    assert_eq!(settled, expected);
    assert_eq!(subject.count("SELECT count(*) FROM pending_deliveries").await, 0);
    assert_eq!(subject.count("SELECT sum(attempts)::bigint FROM deliveries").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_given_back_although_one_is_received_again() {
    let subject = Subject::postgres().await;
    let (org, inbox, events) = received_events(&subject).await;
    let receiving = begin_receiving(&subject, &events).await;
    let mut giving = JoinSet::new();
    let (store, of_consumer, given) = (subject.store.clone(), inbox.clone(), events.clone());
    giving.spawn(async move {
        store.give_back(org, request(&of_consumer, at(11)), &given, at(11)).await
    });
    subject.commit_awaited(receiving).await;
    let (mut returned, _) = giving.join_next().await.unwrap().unwrap().unwrap();
    returned.sort_unstable();
    assert_eq!(returned, events);
    let mut again = ids(&receive(&subject, org, &inbox, 11).await);
    again.sort_unstable();
    assert_eq!(again, events);
}
