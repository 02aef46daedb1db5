//! The conditions of what is received by the types of events.

use crate::domain::EventTypeFilter;
use crate::store::claims;
use crate::store::engine::Dialect;

/// Types with a prefix that one look for events goes through.
const TYPES_LOOKED_AT_MAX: usize = 1_000;
/// Events of any type that are looked at for a prefix with more types, those that have waited longest.
pub(super) const EVENTS_LOOKED_AT_MAX: usize = 1_000;

/// The condition that a row has this type.
pub(super) fn of_type(dialect: Dialect, event_type: &str) -> String {
    let column = dialect.bytewise("d.event_type");
    format!("d.event_type IS NOT NULL AND {column} = {event_type}")
}

/// The parameters behind the first ones: a type, or a prefix and what comes behind it.
pub(super) fn type_args(filter: Option<&EventTypeFilter>) -> Vec<String> {
    match filter {
        Some(EventTypeFilter::Exact(exact)) => vec![exact.as_str().to_owned()],
        Some(EventTypeFilter::Prefix(prefix)) => {
            vec![prefix.clone(), crate::store::event_type_range::after_prefix(prefix)]
        }
        Some(EventTypeFilter::All) | None => Vec::new(),
    }
}

/// A SELECT of the types, from one parameter on and before another, of what waits in the inbox `$1` or is hidden, the first
/// [`TYPES_LOOKED_AT_MAX`] in order. Each is found by a step over the index, and only as they are asked for.
pub(super) fn types_of_inbox(dialect: Dialect, (from, end): (&str, &str)) -> String {
    let column = dialect.bytewise("d.event_type");
    let first = format!(
        "SELECT min({column}) FROM {}
         WHERE d.endpoint_id = $1 AND d.lease_token IS NULL AND d.event_type IS NOT NULL
           AND {column} < {end}",
        claims::pending(dialect, "d", "pending_inbox_types")
    );
    format!(
        "WITH RECURSIVE types (event_type, number) AS (
             SELECT ({first} AND {column} >= {from}), 1
             UNION ALL
             SELECT ({first} AND {column} > types.event_type), number + 1
             FROM types WHERE types.event_type IS NOT NULL AND number < {TYPES_LOOKED_AT_MAX}
         )
         SELECT event_type FROM types WHERE event_type IS NOT NULL"
    )
}

/// The condition that the inbox `$1` has more types than are looked at from one parameter on and before another, and
/// that a row's type is one of them.
pub(super) fn of_many_types(dialect: Dialect, (from, end): (&str, &str)) -> String {
    let column = dialect.bytewise("d.event_type");
    let types = types_of_inbox(dialect, (from, end));
    format!(
        "(SELECT count(*) FROM ({types}) t) >= {TYPES_LOOKED_AT_MAX}
         AND d.event_type IS NOT NULL AND {column} >= {from} AND {column} < {end}"
    )
}
