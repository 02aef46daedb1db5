//! The event types of a list of deliveries. A delivery has the key of its type alone, so the types with a prefix are looked
//! up: PostgreSQL looks at the events of the days that the list reads, and not at those of all days.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::engine::{Dialect, Row, args};
use super::event_type_range::after_prefix;
use super::list_query::{TYPES_MERGED_MAX, days_sql, types_sql};
use super::type_key::type_key;
use super::{Result, Store};
use crate::domain::{Cursor, EventId, EventTypeFilter, OrgId, Timestamp};

/// The key of an event.
type EventKey = (EventId, Timestamp);

/// The event types of a list.
pub(super) enum Types<'a> {
    All,
    /// Those with these keys.
    Keys(Vec<i64>),
    /// Those with this prefix, of which there are many.
    Prefix(&'a str),
}

impl Store {
    /// The types of a filter, for deliveries that were created between a position and a time.
    ///
    /// The event of a delivery that was planned is of the same day. That of a redelivery may be older: its type is found
    /// among those that the rollups have, which its event is counted in by then.
    pub(super) async fn types_of_deliveries<'a>(
        &self,
        org: OrgId,
        filter: Option<&'a EventTypeFilter>,
        span: (Timestamp, Cursor),
    ) -> Result<Types<'a>> {
        let prefix = match filter {
            None | Some(EventTypeFilter::All) => return Ok(Types::All),
            Some(EventTypeFilter::Exact(exact)) => {
                return Ok(Types::Keys(vec![type_key(org, exact.as_str())]));
            }
            Some(EventTypeFilter::Prefix(prefix)) => prefix.as_str(),
        };
        let dialect = self.engine.dialect();
        let mut args = args![org, prefix, after_prefix(prefix)];
        let sql = match dialect {
            Dialect::Sqlite => types_sql(dialect, "events", ""),
            Dialect::Postgres => {
                let (days, bounds) = days_sql("received_at", span, 4);
                args.extend(bounds);
                format!(
                    "SELECT event_type FROM ({}) e
                     UNION ALL
                     SELECT event_type FROM (
                         SELECT event_type FROM event_types
                         WHERE org_id = $1 AND event_type >= $2 AND event_type < $3
                         LIMIT {}) t",
                    types_sql(dialect, "events", &days),
                    TYPES_MERGED_MAX + 1,
                )
            }
        };
        let read = |row: &Row| row.get::<String>("event_type");
        let types: BTreeSet<String> =
            self.engine.list(sql, args, read).await?.into_iter().collect();
        if types.len() > TYPES_MERGED_MAX {
            return Ok(Types::Prefix(prefix));
        }
        Ok(Types::Keys(types.iter().map(|event_type| type_key(org, event_type)).collect()))
    }

    /// The types of those of these events that are held, in PostgreSQL, for pending deliveries although their day was
    /// dropped.
    pub(super) async fn types_of_held(
        &self,
        org: OrgId,
        events: Vec<Uuid>,
    ) -> Result<Vec<(EventKey, String)>> {
        if events.is_empty() || self.engine.dialect() == Dialect::Sqlite {
            return Ok(Vec::new());
        }
        let sql = "SELECT id, received_at, event_type FROM held_events
                   WHERE id = ANY ($2) AND org_id = $1";
        self.engine.list(sql, args![org, events], read_type).await
    }
}

/// The key of an event, and its type.
pub(super) fn read_type(row: &Row) -> Result<(EventKey, String)> {
    Ok(((row.get("id")?, row.get("received_at")?), row.get("event_type")?))
}
