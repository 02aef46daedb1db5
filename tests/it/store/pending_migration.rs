//! The step from version 1, whose pending and finished deliveries are one table, and the way back.

use std::fmt::Write;

use hookgate::domain::{
    Actor, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointChange, EndpointId, Event, EventId,
    OrgId, PageRequest, Timestamp,
};
use uuid::Uuid;

use super::fixtures::{ALL_LETTERS, FIRST_PAGE, add_endpoint, add_org, at, some_event};
use super::{Subject, on_both};

on_both!(
    deliveries_of_version_1_are_there_after_the_step_and_back_before_it,
    version_1_stores_and_claims_nothing_on_the_new_schema,
);

/// The last step that version 1 knows.
const VERSION_1: i64 = 9;

/// A store of version 1 with a delivery in every state.
struct VersionOne {
    org: OrgId,
    event: Event,
    enabled: EndpointId,
    disabled: EndpointId,
    due: DeliveryId,
    parked: DeliveryId,
    leased: DeliveryId,
    ordered: DeliveryId,
    retried: DeliveryId,
    replayed: DeliveryId,
    delivered: DeliveryId,
    dead: DeliveryId,
    cancelled: DeliveryId,
}

/// Literals of one engine.
struct Sql<'a>(&'a Subject);

impl Sql<'_> {
    fn id(&self, id: Uuid) -> String {
        let id = id.simple();
        if self.0.is_postgres() { format!("'{id}'::uuid") } else { format!("x'{id}'") }
    }

    fn at(&self, at: Timestamp) -> String {
        if self.0.is_postgres() { format!("'{at}'::timestamptz") } else { at.micros().to_string() }
    }

    fn flag(&self, flag: bool) -> &'static str {
        match (self.0.is_postgres(), flag) {
            (true, true) => "true",
            (true, false) => "false",
            (false, true) => "1",
            (false, false) => "0",
        }
    }

    fn payload(&self) -> &'static str {
        if self.0.is_postgres() { "'\\x7b7d'" } else { "x'7b7d'" }
    }

    async fn run(&self, sql: &str) {
        self.0.raw(sql, sql).await;
    }
}

/// When version 1 planned the deliveries: after their event was accepted, within the same millisecond.
fn planned_at() -> Timestamp {
    Timestamp::from_micros(at(1).micros() + 2_500)
}

/// The state of a delivery of version 1.
#[derive(Clone, Copy)]
struct State {
    status: &'static str,
    attempts: u32,
    due: Option<i64>,
    leased: bool,
    ordered: bool,
    replay_of: Option<DeliveryId>,
}

const PENDING: State = State {
    status: "pending",
    attempts: 0,
    due: Some(5),
    leased: false,
    ordered: false,
    replay_of: None,
};

impl VersionOne {
    async fn build(subject: &Subject) -> Self {
        let org = add_org(subject).await;
        let enabled = add_endpoint(subject, org, "*").await.id;
        let disabled = add_endpoint(subject, org, "*").await.id;
        let off = EndpointChange {
            disabled_reason: Some(Some("off".to_owned())),
            ..EndpointChange::default()
        };
        let store = &subject.store;
        store.update_endpoint(org, disabled, &off, &Actor::CLI, at(1)).await.unwrap().unwrap();
        while store.migrate_down().await.unwrap() != Some(VERSION_1 + 1) {}
        let mut old = Self {
            org,
            event: some_event(org, "a.b", at(1)),
            enabled,
            disabled,
            due: DeliveryId::mint(planned_at()),
            parked: DeliveryId::mint(planned_at()),
            leased: DeliveryId::mint(planned_at()),
            ordered: DeliveryId::mint(planned_at()),
            // Planned late, as version 1 did with a backlog.
            retried: DeliveryId::mint(at(4)),
            replayed: DeliveryId::mint(planned_at()),
            delivered: DeliveryId::mint(planned_at()),
            dead: DeliveryId::mint(planned_at()),
            cancelled: DeliveryId::mint(planned_at()),
        };
        old.event.received_at = Timestamp::from_micros(at(1).micros() + 2_000);
        old.insert(&Sql(subject)).await;
        old
    }

    async fn insert(&self, sql: &Sql<'_>) {
        let event = &self.event;
        let payload = sql.payload();
        let mut text = format!(
            "INSERT INTO events (id, org_id, event_type, payload, received_at, trace_id)
             VALUES ({}, {}, 'a.b', {payload}, {}, {});",
            sql.id(event.id.uuid()),
            sql.id(self.org.uuid()),
            sql.at(event.received_at),
            sql.id(Uuid::nil()),
        );
        for (id, state) in self.states() {
            self.insert_delivery(sql, &mut text, id, state);
        }
        let letter = format!(
            "INSERT INTO dead_letters (id, org_id, event_id, delivery_id, endpoint_id, reason, created_at)
             VALUES ({id}, {}, {}, {id}, {}, 'exhausted', {});",
            sql.id(self.org.uuid()),
            sql.id(event.id.uuid()),
            sql.id(self.enabled.uuid()),
            sql.at(at(9)),
            id = sql.id(self.dead.uuid()),
        );
        sql.run(&(text + &letter)).await;
    }

    fn states(&self) -> [(DeliveryId, State); 9] {
        let finished = |status, attempts| State { status, attempts, due: None, ..PENDING };
        [
            (self.due, PENDING),
            (self.parked, State { due: None, ..PENDING }),
            (self.leased, State { leased: true, due: Some(60), ..PENDING }),
            (self.ordered, State { ordered: true, ..PENDING }),
            (self.retried, State { attempts: 1, due: Some(900), ..PENDING }),
            (self.replayed, State { replay_of: Some(self.dead), ..PENDING }),
            (self.delivered, finished("delivered", 2)),
            (self.dead, finished("dead", 1)),
            (self.cancelled, finished("cancelled", 0)),
        ]
    }

    fn insert_delivery(&self, sql: &Sql<'_>, text: &mut String, id: DeliveryId, state: State) {
        let State { status, attempts, due, leased, ordered, replay_of } = state;
        let null = || "NULL".to_owned();
        let endpoint = if id == self.parked { self.disabled } else { self.enabled };
        let finished = (status != "pending").then(|| sql.at(at(9)));
        let columns =
            "id, org_id, event_id, event_received_at, endpoint_id, status, attempts, due_at,
             lease_token, created_at, finished_at, ordered, replay_of";
        writeln!(
            text,
            "INSERT INTO deliveries ({columns})
             VALUES ({}, {}, {}, {}, {}, '{status}', {attempts}, {}, {}, {}, {}, {}, {});",
            sql.id(id.uuid()),
            sql.id(self.org.uuid()),
            sql.id(self.event.id.uuid()),
            sql.at(self.event.received_at),
            sql.id(endpoint.uuid()),
            due.map_or_else(null, |due| sql.at(at(due))),
            if leased { sql.id(Uuid::from_u128(7)) } else { null() },
            sql.at(Timestamp::from_micros(id.created_at().micros() + 500)),
            finished.unwrap_or_else(null),
            sql.flag(ordered),
            replay_of.map_or_else(null, |id| sql.id(id.uuid())),
        )
        .unwrap();
        for number in 1..=attempts {
            writeln!(
                text,
                "INSERT INTO delivery_attempts (delivery_id, number, org_id, event_received_at, started_at,
                                                duration_ms, status_code, error_class, error)
                 VALUES ({}, {number}, {}, {}, {}, 12, 500, 'status', 'status 500');",
                sql.id(id.uuid()),
                sql.id(self.org.uuid()),
                sql.at(self.event.received_at),
                sql.at(at(i64::from(number) + 1)),
            )
            .unwrap();
        }
    }

    /// What the store says of each delivery and its attempts.
    async fn shown(&self, subject: &Subject) -> Vec<String> {
        let mut shown = Vec::new();
        for (id, _) in self.states() {
            let delivery = subject.store.delivery(self.org, id).await.unwrap().unwrap();
            let attempts = subject.store.attempts(self.org, id).await.unwrap();
            assert_eq!(attempts.len(), delivery.attempts as usize, "{delivery:?}");
            assert!(attempts.iter().zip(1..).all(|(attempt, number)| attempt.number == number));
            shown.push(format!("{delivery:?} {attempts:?}"));
        }
        shown
    }
}

async fn deliveries_of_version_1_are_there_after_the_step_and_back_before_it(subject: &Subject) {
    let old = VersionOne::build(subject).await;
    let (store, sql) = (&subject.store, Sql(subject));
    let everything = async || {
        let mut rows = Vec::new();
        for (table, columns) in [
            (
                "deliveries",
                "count(*) * 1000 + sum(attempts) * 100 + count(due_at) * 10 + count(lease_token)",
            ),
            ("delivery_attempts", "count(*)"),
        ] {
            rows.push(
                subject.count(&format!("SELECT CAST({columns} AS bigint) FROM {table}")).await,
            );
        }
        rows
    };
    let before = everything().await;
    assert!(store.migrate_up().await.unwrap() >= 1);

    let status = async |id| store.delivery(old.org, id).await.unwrap().unwrap();
    let due = status(old.due).await;
    assert_eq!((due.status, due.next_attempt_at), (DeliveryStatus::Pending, Some(at(5))));
    assert_eq!(due.created_at, planned_at().floor_ms());
    let parked = status(old.parked).await;
    assert_eq!((parked.status, parked.next_attempt_at), (DeliveryStatus::Pending, None));
    let leased = status(old.leased).await;
    assert_eq!((leased.status, leased.next_attempt_at), (DeliveryStatus::Pending, None));
    assert_eq!(status(old.retried).await.next_attempt_at, Some(at(900)));
    assert_eq!(status(old.replayed).await.replay_of, Some(old.dead));
    for (id, expected) in [
        (old.delivered, DeliveryStatus::Delivered),
        (old.dead, DeliveryStatus::Dead),
        (old.cancelled, DeliveryStatus::Cancelled),
    ] {
        let delivery = status(id).await;
        assert_eq!((delivery.status, delivery.finished_at), (expected, Some(at(9))));
    }
    let ordered = format!(
        "SELECT count(*) FROM pending_deliveries WHERE ordered = {} AND id = {}",
        sql.flag(true),
        sql.id(old.ordered.uuid())
    );
    assert_eq!(subject.count(&ordered).await, 1);
    let shown = old.shown(subject).await;
    let of = |filter: DeliveryFilter| async move {
        let page = PageRequest { limit: 100, ..FIRST_PAGE };
        store.deliveries(old.org, &filter, page).await.unwrap().data.len()
    };
    let all = DeliveryFilter::default();
    let event_id = Some(old.event.id);
    assert_eq!(of(all.clone()).await, 9);
    assert_eq!(of(DeliveryFilter { event_id, ..all.clone() }).await, 9);
    assert_eq!(of(DeliveryFilter { endpoint_id: Some(old.disabled), ..all.clone() }).await, 1);
    assert_eq!(
        of(DeliveryFilter { status: Some(DeliveryStatus::Pending), ..all.clone() }).await,
        6
    );
    assert_eq!(of(DeliveryFilter { status: Some(DeliveryStatus::Dead), event_id, ..all }).await, 1);
    let letters = store.dead_letters(old.org, &ALL_LETTERS, FIRST_PAGE).await.unwrap().data;
    assert_eq!(
        letters.iter().map(|letter| letter.delivery_id).collect::<Vec<_>>(),
        [Some(old.dead)]
    );

    while store.migrate_down().await.unwrap() != Some(VERSION_1 + 1) {}
    assert_eq!(everything().await, before);
    let parked = format!(
        "SELECT count(*) FROM deliveries WHERE id = {} AND status = 'pending' AND due_at IS NULL",
        sql.id(old.parked.uuid())
    );
    assert_eq!(subject.count(&parked).await, 1);
    let last = format!(
        "SELECT count(*) FROM delivery_attempts WHERE delivery_id = {} AND number = 2",
        sql.id(old.delivered.uuid())
    );
    assert_eq!(subject.count(&last).await, 1);

    assert!(store.migrate_up().await.unwrap() >= 1);
    assert_eq!(old.shown(subject).await, shown);
}

/// A server of version 1 that still runs cannot store, so its events stay in its journal.
async fn version_1_stores_and_claims_nothing_on_the_new_schema(subject: &Subject) {
    let old = VersionOne::build(subject).await;
    subject.store.migrate_up().await.unwrap();
    let shown = old.shown(subject).await;
    let sql = Sql(subject);
    let mut insert = format!(
        "INSERT INTO events (id, org_id, event_type, payload, received_at, trace_id)
         VALUES ({}, {}, 'a.b', {}, {}, {});",
        sql.id(EventId::mint(at(2)).uuid()),
        sql.id(old.org.uuid()),
        sql.payload(),
        sql.at(at(2)),
        sql.id(Uuid::nil()),
    );
    old.insert_delivery(&sql, &mut insert, DeliveryId::mint(at(2)), PENDING);
    let claim = format!(
        "UPDATE deliveries SET due_at = {}, lease_token = {} WHERE status = 'pending'",
        sql.at(at(60)),
        sql.id(Uuid::from_u128(8)),
    );
    for statement in [insert, claim] {
        assert!(subject.refuses(&statement).await, "{statement}");
    }
    assert_eq!(subject.count("SELECT count(*) FROM events").await, 1);
    assert_eq!(old.shown(subject).await, shown);
}
