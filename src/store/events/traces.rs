//! Events by their trace.
//!
//! An id that the server minted for an event begins with the time, so the event is among the few that were accepted
//! then. An index has the others: those whose caller gave the id. An id of the server may be both, where a caller
//! used it again.

use uuid::Uuid;

use crate::domain::TraceFilter;
use crate::store::engine::Dialect;
use crate::store::list_query::{ListPart, ListQuery};

/// Selects the events of a trace.
pub(super) fn filter<'a>(
    query: &mut ListQuery<'a>,
    dialect: Dialect,
    trace: Option<&'a TraceFilter>,
) {
    let id = match trace {
        None => return,
        Some(TraceFilter::Text(text)) => {
            let (column, value) = (dialect.bytewise("trace_text"), query.parameter(text.as_str()));
            let by_index =
                format!("org_id = {} AND {column} = {value} AND trace_text <> ''", query.org());
            let checked = dialect.unindexed("trace_text", &value);
            return query.special("events_by_trace_text", &by_index, &checked);
        }
        Some(TraceFilter::Id(id)) => id,
    };
    let value = query.parameter(Uuid::from_bytes(*id.bytes()));
    let org = query.org().to_owned();
    let given = ListPart {
        index: Some("events_by_trace"),
        by_index: format!("org_id = {org} AND trace_id = {value} AND trace_text IS NOT NULL"),
    };
    let minted = id.accepted_within().map(|(first, last)| {
        let (first, last) = (query.parameter(first), query.parameter(last));
        let trace = dialect.unindexed("trace_id", &value);
        ListPart {
            index: Some("events_by_org"),
            by_index: format!(
                "org_id = {org} AND received_at >= {first} AND received_at <= {last}
                   AND {trace} AND trace_text IS NULL"
            ),
        }
    });
    query.parts(std::iter::once(given).chain(minted).collect());
}
