//! Events, and the planning of their deliveries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::postgres::types::PgInterval;
use sqlx::{Arguments, Encode, PgConnection, Postgres, Type};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{PostgresEngine, audit, moment, orgs};
use crate::domain::{
    Actor, Cursor, DeadReason, DeliveryId, EndpointId, Event, EventFilter, EventId, OrgId, Page,
    PageRequest, Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::crypto::Keyring;
use crate::store::metrics::DbOperation;
use crate::store::plan::{self, Candidate, Endpoints};
use crate::store::rows::{self, endpoint_columns};
use crate::store::{LeaseBudget, Persisted, PlanRefusal, StoreError, timed};

impl PostgresEngine {
    pub(crate) async fn persist_events_across_orgs(
        &self,
        events: &[Arc<Event>],
        room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        if events.is_empty() {
            return Ok(Persisted::default());
        }
        timed(&self.metrics, DbOperation::PersistEvents, self.persist(events, room, now)).await
    }

    pub(crate) async fn ordered_orgs_across_orgs(
        &self,
        orgs: &[OrgId],
    ) -> Result<Vec<OrgId>, StoreError> {
        let orgs: Vec<Uuid> = orgs.iter().copied().map(OrgId::uuid).collect();
        let found: Vec<Uuid> = sqlx::query_scalar(
            "SELECT DISTINCT org_id FROM endpoints WHERE ordered AND org_id = ANY ($1)
             ORDER BY org_id",
        )
        .bind(orgs)
        .fetch_all(&self.pool)
        .await?;
        Ok(found.into_iter().map(OrgId::from_uuid).collect())
    }

    pub(crate) async fn plan_event(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        event: &Arc<Event>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<DeliveryId, PlanRefusal>, StoreError> {
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
        let found = sqlx::query(concat!(
            "SELECT ",
            endpoint_columns!(),
            "
             FROM endpoints WHERE id = $1 AND org_id = $2
             FOR SHARE"
        ))
        .bind(endpoint.uuid())
        .bind(org.uuid())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = found else { return Ok(Err(PlanRefusal::NotFound)) };
        let endpoint = Arc::new(rows::endpoint(&row, 0, &self.keyring)?);
        if endpoint.disabled_reason.is_some() {
            return Ok(Err(PlanRefusal::EndpointDisabled));
        }
        let candidate = Candidate { id: DeliveryId::mint(now), event, endpoint: &endpoint };
        let id = candidate.id;
        let unlikely = StoredBefore::Unlikely;
        self.write(&mut tx, &[event.as_ref()], &[candidate], None, now, unlikely).await?;
        let note = AuditRecord::endpoint_tested(endpoint.id, event, id);
        audit::write(&mut tx, &note, by, now).await?;
        tx.commit().await?;
        Ok(Ok(id))
    }

    pub(crate) async fn quarantine_event(
        &self,
        org: OrgId,
        event: EventId,
        record: &[u8],
        detail: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "WITH held AS (
                 SELECT deleting_since FROM orgs WHERE id = $2 FOR KEY SHARE
             )
             INSERT INTO dead_letters (id, org_id, event_id, reason, detail, record, created_at)
             SELECT $1, $2, $1, $3, $4, $5, $6 WHERE NOT EXISTS (SELECT 1 FROM held WHERE deleting_since IS NOT NULL)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(event.uuid())
        .bind(org.uuid())
        .bind(DeadReason::Unstorable.as_str())
        .bind(rows::storable(detail))
        .bind(record)
        .bind(moment(now))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(crate) async fn event(&self, org: OrgId, id: EventId) -> Result<Option<Event>, StoreError> {
        let row = sqlx::query(
            "SELECT id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                    received_at, trace_id
             FROM events WHERE id = $1 AND org_id = $2
             ORDER BY received_at DESC LIMIT 1",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| rows::event(&row, 0)).transpose()
    }

    pub(crate) async fn events(
        &self,
        org: OrgId,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, StoreError> {
        let after = rows::place(page);
        let (exact, prefix) = rows::type_wanted(filter.event_type.as_ref());
        let found = sqlx::query(
            "SELECT id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                    received_at, trace_id
             FROM events
             WHERE org_id = $1 AND (received_at, id) < ($2, $3)
               AND received_at >= $4 AND received_at < $5
               AND ($6::text IS NULL OR event_type = $6)
               AND ($7::text IS NULL OR starts_with(event_type, $7))
               AND ($8::bytea IS NULL OR convert_to(account_id, 'UTF8') = $8)
               AND ($9::bytea IS NULL OR convert_to(user_id, 'UTF8') = $9)
             ORDER BY received_at DESC, id DESC LIMIT $10",
        )
        .bind(org.uuid())
        .bind(moment(after.at))
        .bind(after.id)
        .bind(moment(filter.since.unwrap_or(rows::START_OF_TIME)))
        .bind(moment(filter.until.unwrap_or(rows::END_OF_TIME)))
        .bind(exact)
        .bind(prefix)
        // As bytes: what a caller looks for may hold a NUL, which no text parameter can.
        .bind(filter.account_id.as_deref().map(str::as_bytes))
        .bind(filter.user_id.as_deref().map(str::as_bytes))
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.pool)
        .await?;
        let events = rows::all(&found, |row| rows::event(row, 0))?;
        Ok(Page::from_rows(events, page.limit, |event| Cursor {
            at: event.received_at,
            id: event.id.uuid(),
        }))
    }
}

/// Which of the organisations in `$2` are being deleted. They are held until the batch is stored, so
/// that a deletion begins before it or after it.
macro_rules! gone {
    () => {
        "held AS (
             SELECT id, deleting_since FROM orgs WHERE id = ANY ($2) FOR KEY SHARE
         ), gone AS (
             SELECT id FROM held WHERE deleting_since IS NOT NULL
         )"
    };
}

/// The one statement of a round, with or without a clause for events that are there already.
macro_rules! write_round {
    ($on_conflict:literal) => {
        concat!(
            "WITH ",
            gone!(),
            ", taken AS (
                 INSERT INTO dedup_keys (org_id, event_id, received_at)
                 SELECT org_id, id, received_at
                 FROM unnest($1::uuid[], $2::uuid[], $5::text[], $9::timestamptz[])
                     AS e (id, org_id, dedup_id, received_at)
                 WHERE dedup_id IS NOT NULL AND org_id NOT IN (SELECT id FROM gone)
                 ON CONFLICT (org_id, event_id) DO UPDATE SET received_at = excluded.received_at
                     WHERE dedup_keys.received_at = excluded.received_at
                        OR dedup_keys.received_at <= excluded.received_at - $11::interval
                 RETURNING event_id
             ), stored AS (
                 INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id,
                                     user_id, occurred_at, received_at, trace_id)
                 SELECT e.*
                 FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[],
                             $6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[],
                             $10::uuid[])
                     AS e (id, org_id, event_type, payload, dedup_id, account_id, user_id,
                           occurred_at, received_at, trace_id)
                 WHERE (e.dedup_id IS NULL OR e.id IN (SELECT event_id FROM taken))
                   AND e.org_id NOT IN (SELECT id FROM gone)
",
            $on_conflict,
            "
                 RETURNING id, received_at
             ), planned AS (
                 INSERT INTO deliveries (id, org_id, event_id, event_received_at, endpoint_id,
                                         due_at, lease_token, created_at, ordered)
                 SELECT c.id, c.org_id, c.event_id, c.event_received_at, c.endpoint_id,
                        CASE WHEN c.leased THEN $18::timestamptz ELSE $20::timestamptz END,
                        CASE WHEN c.leased THEN $19::uuid END,
                        $20::timestamptz, c.ordered
                 FROM (
                     SELECT c.*,
                            c.leasable AND count(*) FILTER (WHERE c.leasable)
                                OVER (ORDER BY c.place) <= $17::bigint AS leased
                     FROM unnest($12::uuid[], $13::uuid[], $14::uuid[], $15::timestamptz[],
                                 $16::uuid[], $21::boolean[], $22::boolean[])
                         WITH ORDINALITY
                         AS c (id, org_id, event_id, event_received_at, endpoint_id, leasable,
                               ordered, place)
                     WHERE (c.event_id IN (SELECT id FROM stored) OR c.event_id IS NULL)
                       AND (c.endpoint_id IN (SELECT id FROM endpoints WHERE id = ANY ($16)
                                              AND (disabled_reason IS NULL OR suspended))
                            OR c.endpoint_id IS NULL)
                 ) c
                 RETURNING id, lease_token
             )
             SELECT (SELECT count(*) FROM stored),
                    (SELECT count(*) FROM planned),
                    (SELECT count(*) FROM unnest($2::uuid[]) AS e (org_id)
                     WHERE e.org_id IN (SELECT id FROM gone)),
                    ARRAY(SELECT id FROM planned WHERE lease_token IS NOT NULL)"
        )
    };
}

/// Whether events of a batch may have a row already, as after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoredBefore {
    /// They would be new to us: a row in the way fails the statement, which is then repeated.
    /// Looking for rows that are not there makes an insert half as slow again.
    Unlikely,
    /// Their rows are passed over.
    Possible,
}

impl PostgresEngine {
    /// Two round trips: the endpoints, then everything else. A second round of events, which a
    /// dedup id used twice in one batch makes, brings a transaction around them.
    pub(crate) async fn persist(
        &self,
        events: &[Arc<Event>],
        room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        let rounds = plan::rounds(events, self.dedup_window);
        let mut connection = self.pool.acquire().await?;
        let orgs = plan::orgs_of(events);
        let endpoints = enabled_endpoints(&mut connection, &self.keyring, &orgs).await?;
        let mut persisted = Persisted::default();
        let batch = Batch { endpoints: &endpoints, room, now };
        if let [round] = &rounds[..] {
            let unlikely = StoredBefore::Unlikely;
            match self.write_round(&mut connection, round, batch, unlikely, &mut persisted).await {
                Err(error) if is_stored_before(&error) => {
                    let possible = StoredBefore::Possible;
                    self.write_round(&mut connection, round, batch, possible, &mut persisted)
                        .await?;
                }
                result => result?,
            }
        } else {
            let possible = StoredBefore::Possible;
            let mut tx = sqlx::Connection::begin(&mut *connection).await?;
            for round in &rounds {
                self.write_round(&mut tx, round, batch, possible, &mut persisted).await?;
            }
            tx.commit().await?;
        }
        persisted.taken = events.len();
        persisted.duplicates = events.len() - persisted.stored - persisted.dropped;
        Ok(persisted)
    }

    async fn write_round(
        &self,
        connection: &mut PgConnection,
        round: &plan::Round,
        Batch { endpoints, room, now }: Batch<'_>,
        stored_before: StoredBefore,
        persisted: &mut Persisted,
    ) -> Result<(), StoreError> {
        // Planned in the order of the batch, so that leases go to the oldest; written in key order.
        let candidates = plan::candidates(round, endpoints, now);
        let mut sorted: Vec<&Event> = round.iter().map(Arc::as_ref).collect();
        sorted.sort_unstable_by_key(|event| (event.org_id, event.id));
        let is_plain = candidates.is_empty() && sorted.iter().all(|e| e.dedup_id.is_none());
        if is_plain && stored_before == StoredBefore::Unlikely {
            let stored = insert(connection, &sorted).await?;
            persisted.stored += stored;
            // No row was in the way, or the statement had failed.
            persisted.dropped += sorted.len() - stored;
            return Ok(());
        }
        let room = room.filter(|_| plan::may_lease(&candidates));
        let room_left =
            room.map_or(0, |room| room.deliveries_max.saturating_sub(persisted.leased.len()));
        let (stored, planned, dropped, leased) = self
            .write(connection, &sorted, &candidates, room.zip(Some(room_left)), now, stored_before)
            .await?;
        persisted.stored += usize::try_from(stored).unwrap_or(0);
        persisted.planned += usize::try_from(planned).unwrap_or(0);
        persisted.dropped += usize::try_from(dropped).unwrap_or(0);
        if let Some(room) = room {
            let mut by_id: HashMap<Uuid, &Candidate<'_>> =
                candidates.iter().map(|candidate| (candidate.id.uuid(), candidate)).collect();
            let taken = leased.iter().filter_map(|id| by_id.remove(id));
            persisted.leased.extend(taken.map(|candidate| candidate.leased(room.lease)));
        }
        Ok(())
    }

    /// Takes dedup keys, stores the events that hold theirs, and plans deliveries of those that
    /// are new to endpoints that are still enabled. Answers how many events were stored, how many
    /// deliveries were planned, how many events were dropped, and which deliveries are leased.
    ///
    /// Ids are unique in a round. The ORs, never true, keep PostgreSQL from turning each IN, a
    /// look-up in a hash table, into a join row by row (see `SETTINGS`).
    async fn write(
        &self,
        connection: &mut PgConnection,
        events: &[&Event],
        candidates: &[Candidate<'_>],
        room: Option<(LeaseBudget<'_>, usize)>,
        now: Timestamp,
        stored_before: StoredBefore,
    ) -> Result<(i64, i64, i64, Vec<Uuid>), StoreError> {
        let delivery = DeliveryColumns::new(candidates, room.map(|(room, _)| room));
        let statement = match stored_before {
            StoredBefore::Unlikely => write_round!(""),
            StoredBefore::Possible => write_round!("ON CONFLICT DO NOTHING"),
        };
        let row = sqlx::query_as_with(statement, event_arguments(events)?)
            .bind(interval(self.dedup_window))
            .bind(delivery.id)
            .bind(delivery.org_id)
            .bind(delivery.event_id)
            .bind(delivery.event_received_at)
            .bind(delivery.endpoint_id)
            .bind(room.map_or(0, |(_, left)| i64::try_from(left).unwrap_or(i64::MAX)))
            .bind(room.map(|(room, _)| moment(room.lease.until)))
            .bind(room.map(|(room, _)| room.lease.token.uuid()))
            .bind(moment(now))
            .bind(delivery.leasable)
            .bind(delivery.ordered)
            .fetch_one(connection)
            .await?;
        Ok(row)
    }
}

impl PostgresEngine {
    /// Stores operational events that anyone subscribes to and plans their deliveries, in the
    /// transaction of what they tell.
    pub(crate) async fn publish(
        &self,
        connection: &mut PgConnection,
        mut news: plan::Round,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if news.is_empty() {
            return Ok(());
        }
        let endpoints = enabled_endpoints(connection, &self.keyring, &plan::orgs_of(&news)).await?;
        news.retain(|event| endpoints.is_wanted(event));
        let batch = Batch { endpoints: &endpoints, room: None, now };
        let mut persisted = Persisted::default();
        // A failed statement would take the whole transaction with it.
        let possible = StoredBefore::Possible;
        self.write_round(connection, &news, batch, possible, &mut persisted).await
    }
}

/// Stores events that nobody wants delivered and that have no dedup ids: the plain insert that the
/// whole statement is measured against.
async fn insert(connection: &mut PgConnection, events: &[&Event]) -> Result<usize, StoreError> {
    let stored = sqlx::query_with(
        concat!(
            "WITH ",
            gone!(),
            " INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id, user_id,
                                  occurred_at, received_at, trace_id)
              SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[],
                                   $6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[],
                                   $10::uuid[])
                  AS e (id, org_id, event_type, payload, dedup_id, account_id, user_id,
                        occurred_at, received_at, trace_id)
              WHERE e.org_id NOT IN (SELECT id FROM gone)"
        ),
        event_arguments(events)?,
    )
    .execute(connection)
    .await?;
    Ok(usize::try_from(stored.rows_affected()).unwrap_or(usize::MAX))
}

/// Whether a statement failed on a row that is there already.
fn is_stored_before(error: &StoreError) -> bool {
    match error {
        StoreError::Refused(sqlx::Error::Database(error)) => error.is_unique_violation(),
        StoreError::Refused(_) | StoreError::Unavailable(_) | StoreError::Corrupt(_) => false,
    }
}

async fn enabled_endpoints(
    connection: &mut PgConnection,
    keyring: &Keyring,
    orgs: &[OrgId],
) -> Result<Endpoints, StoreError> {
    let orgs: Vec<Uuid> = orgs.iter().copied().map(OrgId::uuid).collect();
    let found = sqlx::query(concat!(
        "SELECT ",
        endpoint_columns!(),
        "
         FROM endpoints WHERE org_id = ANY($1) AND (disabled_reason IS NULL OR suspended)"
    ))
    .bind(orgs)
    .fetch_all(connection)
    .await?;
    Ok(Endpoints::new(rows::all(&found, |row| rows::endpoint(row, 0, keyring))?))
}

/// What the rounds of a batch share.
#[derive(Clone, Copy)]
struct Batch<'a> {
    endpoints: &'a Endpoints,
    room: Option<LeaseBudget<'a>>,
    now: Timestamp,
}

/// Events, column by column: the first ten parameters of a statement.
fn event_arguments(events: &[&Event]) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    add(&mut arguments, column(events, |event| event.id.uuid()))?;
    add(&mut arguments, column(events, |event| event.org_id.uuid()))?;
    add(&mut arguments, column(events, |event| event.event_type.as_str()))?;
    add(&mut arguments, column(events, |event| &event.payload[..]))?;
    add(&mut arguments, column(events, |event| event.dedup_id.as_deref()))?;
    add(&mut arguments, column(events, |event| event.account_id.as_deref()))?;
    add(&mut arguments, column(events, |event| event.user_id.as_deref()))?;
    add(&mut arguments, column(events, |event| event.occurred_at.map(moment)))?;
    add(&mut arguments, column(events, |event| moment(event.received_at)))?;
    add(&mut arguments, column(events, |event| Uuid::from_bytes(*event.trace_id.bytes())))?;
    Ok(arguments)
}

fn column<'a, T>(events: &[&'a Event], value: impl Fn(&'a Event) -> T) -> Vec<T> {
    events.iter().map(|event| value(event)).collect()
}

fn add<'q, T>(arguments: &mut PgArguments, column: T) -> Result<(), StoreError>
where
    T: Encode<'q, Postgres> + Type<Postgres> + 'q,
{
    arguments.add(column).map_err(|error| sqlx::Error::Encode(error).into())
}

/// Candidates for deliveries, column by column.
struct DeliveryColumns {
    id: Vec<Uuid>,
    org_id: Vec<Uuid>,
    event_id: Vec<Uuid>,
    event_received_at: Vec<OffsetDateTime>,
    endpoint_id: Vec<Uuid>,
    leasable: Vec<bool>,
    ordered: Vec<bool>,
}

impl DeliveryColumns {
    fn new(candidates: &[Candidate<'_>], room: Option<LeaseBudget<'_>>) -> Self {
        Self {
            id: candidates.iter().map(|c| c.id.uuid()).collect(),
            org_id: candidates.iter().map(|c| c.event.org_id.uuid()).collect(),
            event_id: candidates.iter().map(|c| c.event.id.uuid()).collect(),
            event_received_at: candidates.iter().map(|c| moment(c.event.received_at)).collect(),
            endpoint_id: candidates.iter().map(|c| c.endpoint.id.uuid()).collect(),
            leasable: candidates.iter().map(|c| c.may_be_leased(room)).collect(),
            ordered: candidates.iter().map(|c| c.endpoint.policy.ordered).collect(),
        }
    }
}

fn interval(span: Duration) -> PgInterval {
    let microseconds = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}
