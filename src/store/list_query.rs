//! A list with filters: the statement, and the index that reads it.
//!
//! Every filter has an index in the order of the list, so a page costs the same however many rows there are. With
//! several filters, a first statement counts a few rows of each; the list is read by the index of the one with
//! the fewest, and the others are checked row by row.
//!
//! A prefix of event types has no index in the order of the list. Its types are looked up first, and the list
//! merges one list per type. Where they are many but have few rows, these are sorted; otherwise, and beside other
//! filters, the prefix is checked row by row.
//!
//! On PostgreSQL a list of a table with a partition per day looks back in spans, see [`LookBack`].

use uuid::Uuid;

use super::engine::{Args, Dialect, Row, Value, args};
use super::event_type_range::after_prefix;
use super::look_back::LookBack;
use super::page::{self, START_OF_TIME};
use super::{Result, Store};
use crate::domain::{Cursor, EventType, EventTypeFilter, OrgId, Page, PageRequest, Timestamp};

/// Rows of a filter that are counted.
const COUNTED_MAX: u32 = 500;
/// Types with one prefix whose lists are merged.
const TYPES_MERGED_MAX: usize = 64;
/// Rows with one prefix that are sorted.
const ROWS_SORTED_MAX: u32 = 10_000;
/// Partitions begin at midnight UTC.
const DAY_MICROS: i64 = 86_400_000_000;
/// The parameters before those of a query: `$1` and `$2` the cursor, `$3` the limit.
const PARAMETERS_BEFORE: usize = 3;

/// A table that lists are read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) table: &'static str,
    /// The column of the time that it is listed by.
    pub(super) at: &'static str,
    /// Its index on organisation and event type.
    pub(super) by_type: &'static str,
    /// Whether PostgreSQL has a partition of it per day.
    pub(super) by_day: bool,
}

/// A query of an organisation's list.
#[derive(Clone, Debug)]
pub(super) struct ListQuery<'a> {
    listed: Listed,
    dialect: Dialect,
    org_id: OrgId,
    /// The parameter of the organisation.
    org: String,
    args: Args<'a>,
    filters: Vec<IndexedFilter>,
    /// Conditions that need no index of their own: every index is in the order of time.
    checks: Vec<String>,
    prefix: Option<&'a str>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// A filter with an index.
#[derive(Clone, Debug)]
struct IndexedFilter {
    /// The condition that reads its index, with that on the organisation.
    by_index: String,
    /// The same condition in a form that chooses no index.
    checked: String,
}

/// What a page is read from.
enum Source<'a> {
    Nothing,
    /// An index, by these conditions.
    Index(String),
    /// The index on types, type by type.
    Types(Vec<String>),
    /// The index on types, by this prefix.
    Prefix(&'a str),
}

impl<'a> ListQuery<'a> {
    /// All of an organisation's rows.
    pub(super) fn new(dialect: Dialect, listed: Listed, org_id: OrgId) -> Self {
        let (filters, checks) = (Vec::new(), vec![format!("{} <= $1", listed.at)]);
        let (args, org) = (Vec::new(), String::new());
        let (prefix, since, until) = (None, None, None);
        let mut query =
            Self { listed, dialect, org_id, org, args, filters, checks, prefix, since, until };
        query.org = query.parameter(org_id);
        query
    }

    /// Rows from `since` on and before `until`.
    pub(super) fn between(&mut self, since: Option<Timestamp>, until: Option<Timestamp>) {
        (self.since, self.until) = (since, until);
    }

    /// Rows with this value, by an index on organisation and column.
    pub(super) fn equal(&mut self, column: &str, value: Option<impl Into<Value<'a>>>) {
        let Some(value) = value else { return };
        let value = self.parameter(value);
        let by_index = format!("org_id = {} AND {column} = {value}", self.org);
        self.filters
            .push(IndexedFilter { by_index, checked: self.dialect.unindexed(column, &value) });
    }

    /// Rows with this value, by an index on the column alone, whose values belong to one organisation.
    pub(super) fn equal_unscoped(&mut self, column: &str, value: Option<impl Into<Value<'a>>>) {
        let Some(value) = value else { return };
        let value = self.parameter(value);
        let scope = self.dialect.unindexed("org_id", &self.org);
        let by_index = format!("{column} = {value} AND {scope}");
        self.filters
            .push(IndexedFilter { by_index, checked: self.dialect.unindexed(column, &value) });
    }

    /// Rows whose column is NULL, or is not, by a partial index each.
    pub(super) fn null(&mut self, column: &str, is_null: Option<bool>) {
        let Some(is_null) = is_null else { return };
        let value = self.parameter(is_null);
        let not = if is_null { "" } else { " NOT" };
        let by_index = format!("org_id = {} AND {column} IS{not} NULL", self.org);
        let checked = format!("({column} IS NULL) IS NOT DISTINCT FROM {value}");
        self.filters.push(IndexedFilter { by_index, checked });
    }

    /// Rows whose `event_type` passes, by an index that compares byte by byte.
    pub(super) fn event_type(&mut self, filter: Option<&'a EventTypeFilter>) {
        match filter {
            None | Some(EventTypeFilter::All) => {}
            Some(EventTypeFilter::Exact(exact)) => self.exact_type(exact),
            Some(EventTypeFilter::Prefix(prefix)) => self.prefix = Some(prefix),
        }
    }

    fn exact_type(&mut self, exact: &'a EventType) {
        let value = self.parameter(exact.as_str());
        let column = self.dialect.bytewise("event_type");
        let by_index = format!("org_id = {} AND {column} = {value}", self.org);
        let checked = self.dialect.unindexed("event_type", &value);
        self.filters.push(IndexedFilter { by_index, checked });
    }

    fn parameter(&mut self, value: impl Into<Value<'a>>) -> String {
        self.args.push(value.into());
        format!("${}", PARAMETERS_BEFORE + self.args.len())
    }

    /// Reads a page.
    pub(super) async fn page<T>(
        self,
        store: &Store,
        columns: &str,
        page: PageRequest,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let after = page::start(page, self.until);
        let mut look_back = if self.listed.by_day {
            store.look_back(self.org_id, after.at, self.since).await?
        } else {
            LookBack::whole(self.since.unwrap_or(START_OF_TIME))
        };
        loop {
            let span = (look_back.next(), after);
            let found = self.clone().part(store, columns, span, page.limit, &read).await?;
            if found.next_cursor.is_some() || look_back.is_at_its_end() {
                return Ok(found);
            }
        }
    }

    /// Reads a page of the rows between a time and a position.
    async fn part<T>(
        mut self,
        store: &Store,
        columns: &str,
        span: (Timestamp, Cursor),
        limit: u32,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let Listed { table, at, .. } = self.listed;
        let from = self.parameter(span.0);
        self.checks.push(self.dialect.weak(&format!("{at} >= {from}")));
        let select = match self.source(store, span).await? {
            Source::Nothing => return Ok(Page { data: Vec::new(), next_cursor: None }),
            Source::Index(conditions) => {
                format!("SELECT {columns} FROM {table} WHERE {conditions}")
            }
            Source::Types(types) => {
                let keys = self.keys_of_types(types);
                self.rows_of(columns, &keys, &from)
            }
            Source::Prefix(prefix) => {
                let keys = self.keys_of_prefix(prefix);
                self.rows_of(columns, &keys, &from)
            }
        };
        store.page(PageRequest { limit, after: Some(span.1) }, at, select, self.args, read).await
    }

    async fn source(&mut self, store: &Store, span: (Timestamp, Cursor)) -> Result<Source<'a>> {
        if let Some(prefix) = self.prefix {
            let types = self.types(store, prefix, span).await?;
            if types.is_empty() {
                return Ok(Source::Nothing);
            }
            if self.filters.is_empty() {
                if types.len() <= TYPES_MERGED_MAX {
                    return Ok(Source::Types(types));
                }
                if self.has_few_rows(store, prefix, span).await? {
                    return Ok(Source::Prefix(prefix));
                }
            }
            let prefix = self.parameter(prefix);
            self.checks.push(format!("substr(event_type, 1, length({prefix})) = {prefix}"));
        }
        let narrowest = match self.filters.len() {
            0 => None,
            1 => Some(0),
            _ => match self.narrowest(store, span.1).await? {
                Some(narrowest) => Some(narrowest),
                None => return Ok(Source::Nothing),
            },
        };
        let all = format!("org_id = {}", self.org);
        let first = narrowest.and_then(|index| self.filters.get(index));
        let mut conditions = vec![first.map_or(all.as_str(), |filter| filter.by_index.as_str())];
        let others = self.filters.iter().enumerate().filter(|(index, _)| Some(*index) != narrowest);
        conditions.extend(others.map(|(_, filter)| filter.checked.as_str()));
        conditions.extend(self.checks.iter().map(String::as_str));
        Ok(Source::Index(conditions.join(" AND ")))
    }

    /// The filter that the fewest rows pass; `None` if none passes one of them.
    async fn narrowest(&self, store: &Store, after: Cursor) -> Result<Option<usize>> {
        let table = self.listed.table;
        let checks = self.checks.join(" AND ");
        let counts = self.filters.iter().enumerate().map(|(index, filter)| {
            format!(
                "(SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {} AND {checks} LIMIT $3) c)
                 AS n{index}",
                filter.by_index
            )
        });
        let sql = format!("SELECT {}", counts.collect::<Vec<_>>().join(", "));
        let mut args = args![after.at, Uuid::max(), COUNTED_MAX];
        args.extend(self.args.iter().cloned());
        let row = store.engine.one(sql, args).await?;
        let mut narrowest = None;
        for index in 0..self.filters.len() {
            let count: u64 = row.get(&format!("n{index}"))?;
            if count == 0 {
                return Ok(None);
            }
            if narrowest.is_none_or(|(fewest, _)| count < fewest) {
                narrowest = Some((count, index));
            }
        }
        Ok(narrowest.map(|(_, index)| index))
    }

    /// The types with a prefix, one more than are merged at most. Each is found by a step over the index.
    async fn types(
        &self,
        store: &Store,
        prefix: &str,
        span: (Timestamp, Cursor),
    ) -> Result<Vec<String>> {
        let table = self.listed.table;
        let column = self.dialect.bytewise("event_type");
        let (days, bounds) = self.days(span, 4);
        let sql = format!(
            "WITH RECURSIVE found (event_type, number) AS (
                 SELECT min({column}), 1 FROM {table}
                 WHERE org_id = $1 AND {column} >= $2 AND {column} < $3{days}
                 UNION ALL
                 SELECT (SELECT min({column}) FROM {table}
                         WHERE org_id = $1 AND {column} > found.event_type AND {column} < $3{days}),
                        number + 1
                 FROM found WHERE found.event_type IS NOT NULL AND number <= {TYPES_MERGED_MAX}
             )
             SELECT event_type FROM found WHERE event_type IS NOT NULL"
        );
        let mut args = args![self.org_id, prefix, after_prefix(prefix)];
        args.extend(bounds);
        store.engine.list(sql, args, |row| row.get("event_type")).await
    }

    /// Whether the rows with a prefix are so few that they can be sorted.
    async fn has_few_rows(
        &self,
        store: &Store,
        prefix: &str,
        span: (Timestamp, Cursor),
    ) -> Result<bool> {
        let (table, column) = (self.table_by_type(), self.dialect.bytewise("event_type"));
        let (days, bounds) = self.days(span, 5);
        let sql = format!(
            "SELECT count(*) AS number FROM (
                 SELECT 1 FROM {table}
                 WHERE org_id = $1 AND {column} >= $2 AND {column} < $3{days} LIMIT $4) k"
        );
        let mut args = args![self.org_id, prefix, after_prefix(prefix), ROWS_SORTED_MAX + 1];
        args.extend(bounds);
        let number: u64 = store.engine.one(sql, args).await?.get("number")?;
        Ok(number <= u64::from(ROWS_SORTED_MAX))
    }

    /// A condition that leaves out the partitions of other days, with its parameters, of which `first` is the first.
    /// It passes all rows of the others: what an index on types reads in vain does not count.
    fn days(&self, (from, after): (Timestamp, Cursor), first: u32) -> (String, Args<'static>) {
        if self.dialect == Dialect::Sqlite || !self.listed.by_day {
            return (String::new(), Vec::new());
        }
        let at = self.listed.at;
        let day = |at: Timestamp| at.micros().div_euclid(DAY_MICROS);
        let midnight = |day: i64| Timestamp::from_micros(day.saturating_mul(DAY_MICROS));
        (
            format!(" AND {at} >= ${first} AND {at} < ${}", first + 1),
            args![midnight(day(from)), midnight(day(after.at) + 1)],
        )
    }

    /// The table, by its index on types.
    fn table_by_type(&self) -> String {
        let Listed { table, by_type, .. } = self.listed;
        match self.dialect {
            Dialect::Sqlite => format!("{table} INDEXED BY {by_type}"),
            Dialect::Postgres => table.to_owned(),
        }
    }

    /// A SELECT of the keys of all rows with a prefix. A planner would otherwise walk the organisation's rows by time.
    fn keys_of_prefix(&mut self, prefix: &'a str) -> String {
        let (at, column) = (self.listed.at, self.dialect.bytewise("event_type"));
        let (first, end) = (self.parameter(prefix), self.parameter(after_prefix(prefix)));
        format!(
            "WITH few AS MATERIALIZED (
                 SELECT {at}, id FROM {}
                 WHERE org_id = {} AND {column} >= {first} AND {column} < {end} AND {}
                   AND ({at}, id) < ($1, $2)
             )
             SELECT * FROM few",
            self.table_by_type(),
            self.org,
            self.checks.join(" AND ")
        )
    }

    /// A SELECT of the keys of a page of each of these types.
    fn keys_of_types(&mut self, types: Vec<String>) -> String {
        let Listed { table, at, .. } = self.listed;
        let (org, column) = (self.org.clone(), self.dialect.bytewise("event_type"));
        let checks = self.checks.join(" AND ");
        let of_type = |wanted: &str| {
            format!(
                "SELECT {at}, id FROM {table}
                 WHERE org_id = {org} AND {column} = {wanted} AND {checks}
                   AND ({at}, id) < ($1, $2)
                 ORDER BY {at} DESC, id DESC LIMIT $3"
            )
        };
        match self.dialect {
            Dialect::Sqlite => {
                let parts = types.into_iter().map(|wanted| {
                    let wanted = self.parameter(wanted);
                    format!("SELECT * FROM ({})", of_type(&wanted))
                });
                parts.collect::<Vec<_>>().join(" UNION ALL ")
            }
            Dialect::Postgres => {
                let types = self.parameter(serde_json::json!(types).to_string());
                format!(
                    "SELECT k.* FROM json_array_elements_text({types}::json) t (wanted)
                     CROSS JOIN LATERAL ({}) k",
                    of_type("t.wanted")
                )
            }
        }
    }

    /// A SELECT of the rows with the first of these keys: no payload is sorted. None is from before `from`.
    fn rows_of(&self, columns: &str, keys: &str, from: &str) -> String {
        let Listed { table, at, .. } = self.listed;
        let org = &self.org;
        format!(
            "SELECT {columns} FROM (
                 SELECT l.* FROM (SELECT * FROM ({keys}) k ORDER BY {at} DESC, id DESC LIMIT $3) k
                 JOIN {table} l ON l.id = k.id AND l.{at} = k.{at} AND l.org_id = {org}
                      AND l.{at} >= {from} AND l.{at} <= $1
             ) l WHERE true"
        )
    }
}
