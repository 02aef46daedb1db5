//! The attempts at the deliveries to an endpoint.
//!
//! An index of attempts by their time would cost an entry for each one. So they are listed in the order in which
//! their deliveries were created, by the index that those have. A position in the list names a delivery, and the attempt of
//! it that was read last unless all of them were.

use std::collections::HashMap;

use super::deliveries::read_attempt;
use super::delivery_lookups::ATTEMPTS_SHOWN_MAX;
use super::engine::{Dialect, Row, args};
use super::{Result, Store};
use crate::domain::{
    Attempt, Cursor, Delivery, DeliveryFilter, DeliveryId, EndpointAttempt, EndpointId, ListOrder,
    OrgId, Page, PageRequest, PartlyRead, Timestamp,
};

impl Store {
    /// Attempts at the deliveries to an endpoint that pass the filter, which names it, the newest [`ATTEMPTS_SHOWN_MAX`] of
    /// each. A page may end within a delivery, or with fewer rows than it asks for.
    pub async fn endpoint_attempts(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<EndpointAttempt>> {
        let (limit, order) = (page.limit as usize, page.order);
        let partly = page.after.and_then(PartlyRead::of);
        let after = partly.map_or(page.after, |partly| Some(partly.before(order)));
        let mut found = self.deliveries(org, filter, PageRequest { after, ..page }).await?;
        let last_read = |delivery: &Delivery| {
            let partly = partly.filter(|partly| partly.is(delivery.id))?;
            Some(partly.last_read(delivery.attempts))
        };
        // Nothing is read of deliveries behind the end of the page.
        let mut expected = 0;
        let is_behind = |delivery: &Delivery| {
            let is_full = expected >= limit;
            let unread = match (last_read(delivery), order) {
                (None, _) => delivery.attempts,
                (Some(last), ListOrder::NewestFirst) => last.saturating_sub(1),
                (Some(last), ListOrder::OldestFirst) => delivery.attempts.saturating_sub(last),
            };
            expected += unread.min(ATTEMPTS_SHOWN_MAX) as usize;
            is_full
        };
        if let Some(end) = found.data.iter().position(is_behind) {
            found.data.truncate(end);
            found.next_cursor =
                found.data.last().map(|last| Cursor { at: last.created_at, id: last.id.uuid() });
        }
        let mut attempts = self.attempts_at(org, endpoint, &found.data).await?;
        let mut data = Vec::new();
        for delivery in found.data {
            let mut made = attempts.remove(&delivery.id).unwrap_or_default();
            if let Some(last) = last_read(&delivery) {
                made.retain(|attempt| match order {
                    ListOrder::NewestFirst => attempt.number < last,
                    ListOrder::OldestFirst => attempt.number > last,
                });
            }
            if order == ListOrder::NewestFirst {
                made.reverse();
            }
            let (delivery_id, event_id) = (delivery.id, delivery.event_id);
            data.extend(made.into_iter().map(|attempt| EndpointAttempt {
                delivery_id,
                event_id,
                attempt,
            }));
        }
        if data.len() > limit {
            data.truncate(limit);
            found.next_cursor = data.last().map(EndpointAttempt::position);
        }
        Ok(Page { data, next_cursor: found.next_cursor })
    }

    /// The attempts at these deliveries to an endpoint, first to last. Those with many attempts, of which a page has few,
    /// are read one by one.
    async fn attempts_at(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        deliveries: &[Delivery],
    ) -> Result<HashMap<DeliveryId, Vec<Attempt>>> {
        let mut made: HashMap<DeliveryId, Vec<Attempt>> = HashMap::new();
        let is_long = |delivery: &&Delivery| delivery.attempts > ATTEMPTS_SHOWN_MAX;
        for delivery in deliveries.iter().filter(is_long) {
            made.insert(delivery.id, self.attempts(org, delivery.id).await?);
        }
        let attempted = || {
            let is_short = |delivery: &&Delivery| delivery.attempts > 0 && !is_long(delivery);
            deliveries.iter().filter(is_short)
        };
        let created = || attempted().map(|delivery| delivery.created_at);
        let (Some(first), Some(last)) = (created().min(), created().max()) else {
            return Ok(made);
        };
        let ids: Vec<_> = attempted().map(|delivery| delivery.id.uuid()).collect();
        let times: Vec<_> = created().map(Timestamp::micros).collect();
        let dialect = self.engine.dialect();
        // Each by its key: a page of a few of many deliveries may span all of them. The limit keeps PostgreSQL from
        // reading those first.
        let finished = match dialect {
            Dialect::Sqlite => {
                "CROSS JOIN deliveries d ON d.org_id = $1 AND d.created_at = k.at AND d.id = k.id"
            }
            Dialect::Postgres => {
                "CROSS JOIN LATERAL (
                     SELECT * FROM deliveries
                     WHERE org_id = $1 AND created_at = k.at AND id = k.id
                       AND created_at >= $3 AND created_at <= $4
                     LIMIT 1
                 ) d"
            }
        };
        let sql = format!(
            "SELECT delivery_id, number, started_at, duration_ms, status_code, error_class, error,
                    response_excerpt
             FROM delivery_attempts
             WHERE {} AND delivery_created_at >= $3 AND delivery_created_at <= $4 AND org_id = $1
             UNION ALL
             SELECT d.id, d.attempts, d.started_at, d.duration_ms, d.status_code, d.error_class,
                    d.error, d.response_excerpt
             FROM ({}) k {finished}
             WHERE d.endpoint_id = $2 AND d.started_at IS NOT NULL
             ORDER BY number",
            dialect.any("delivery_id", "$5"),
            dialect.keys("$5", "$6"),
        );
        let args = args![org, endpoint, first, last, ids, times];
        let read = |row: &Row| Ok((row.get::<DeliveryId>("delivery_id")?, read_attempt(row)?));
        for (delivery, attempt) in self.engine.list(sql, args, read).await? {
            made.entry(delivery).or_default().push(attempt);
        }
        Ok(made)
    }
}
