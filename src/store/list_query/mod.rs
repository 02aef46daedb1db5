//! A list with filters: the statement, and the index that reads it.
//!
//! Every filter has an index in the order of the list, so a page costs the same however many rows there are. With
//! several filters, a first statement counts a few rows of each; the list is read by the index of the one with
//! the fewest, and the others are checked row by row.
//!
//! A filter by several values merges one list per value. A prefix of event types has no index in the order of the list:
//! its types are looked up first. Where they are many but have few rows, these are sorted; otherwise, and beside other
//! filters, the prefix is checked row by row.
//!
//! On PostgreSQL a list of a table with a partition per day looks at it in spans, see [`LookBack`].

mod filters;
mod types;

pub(super) use types::{TYPES_MERGED_MAX, types_sql};

use uuid::Uuid;

use super::engine::{Args, Dialect, Row, Value, args};
use super::look_back::LookBack;
use super::page::{END_OF_TIME, ListBounds, OrderSql, START_OF_TIME};
use super::{Result, Store};
use crate::domain::{Cursor, ListOrder, OrgId, Page, PageRequest, Timestamp};
use filters::IndexedFilter;

/// Rows of a filter that are counted.
const COUNTED_MAX: u32 = 500;
/// The parameters before those of a query: `$1` and `$2` the cursor, `$3` the limit.
pub(super) const PARAMETERS_BEFORE: usize = 3;

/// A table that lists are read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    pub(super) table: &'static str,
    /// The column of the time that it is listed by.
    pub(super) at: &'static str,
    /// Its index on organisation and event type, if it has one.
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
    bounds: ListBounds,
    /// Parameters of the statement before those of this query.
    before: usize,
    /// The parameter of the organisation.
    org: String,
    args: Args<'a>,
    filters: Vec<IndexedFilter>,
    /// Conditions that need no index of their own: every index is in the order of time.
    checks: Vec<String>,
    prefix: Option<&'a str>,
    /// Values of a column, of which a row has one.
    keys: Option<(&'static str, Vec<i64>)>,
    /// Conditions with an index each, of which a row passes one: the list merges theirs, whatever else is asked.
    parts: Option<Vec<ListPart>>,
}

/// One of the lists that a list is merged from.
#[derive(Clone, Debug)]
pub(super) struct ListPart {
    /// The index, where SQLite would choose another one.
    pub(super) index: Option<&'static str>,
    /// The condition that reads it.
    pub(super) by_index: String,
}

/// What a page is read from.
enum Source<'a> {
    Nothing,
    /// An index, which SQLite is told, by these conditions.
    Index(Option<&'static str>, String),
    /// Several lists, each by these conditions.
    Parts(Vec<ListPart>),
    /// The index on types, type by type.
    Types(Vec<String>),
    /// The index on a column, value by value.
    Keys(&'static str, Vec<i64>),
    /// The index on types, by this prefix.
    Prefix(&'a str),
}

impl<'a> ListQuery<'a> {
    /// All of an organisation's rows within bounds. Its parameters follow `before` others.
    pub(super) fn new(
        dialect: Dialect,
        listed: Listed,
        org_id: OrgId,
        bounds: ListBounds,
        before: usize,
    ) -> Self {
        let near = match bounds.order {
            ListOrder::NewestFirst => format!("{} <= $1", listed.at),
            ListOrder::OldestFirst => format!("{} >= $1", listed.at),
        };
        let mut query = Self {
            listed,
            dialect,
            org_id,
            bounds,
            before,
            org: String::new(),
            args: Vec::new(),
            filters: Vec::new(),
            checks: vec![near],
            prefix: None,
            keys: None,
            parts: None,
        };
        query.org = query.parameter(org_id);
        query
    }

    /// Takes a value and returns its parameter.
    pub(super) fn parameter(&mut self, value: impl Into<Value<'a>>) -> String {
        self.args.push(value.into());
        format!("${}", self.before + self.args.len())
    }

    /// The parameter of the organisation.
    pub(super) fn org(&self) -> &str {
        &self.org
    }

    /// The condition on the organisation in a form that chooses no index.
    pub(super) fn scope(&self) -> String {
        self.dialect.unindexed("org_id", &self.org)
    }

    /// Reads a page.
    pub(super) async fn page<T>(
        self,
        store: &Store,
        columns: &str,
        page: PageRequest,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Page<T>> {
        let after = self.bounds.start(page.after);
        let mut look_back = if self.listed.by_day {
            store.look_back(self.org_id, self.bounds.order, after.at, self.bounds.last()).await?
        } else {
            let end = match self.bounds.order {
                ListOrder::NewestFirst => START_OF_TIME,
                ListOrder::OldestFirst => END_OF_TIME,
            };
            LookBack::whole(self.bounds.order, self.bounds.last().unwrap_or(end))
        };
        loop {
            let (far, at) = (look_back.next(), self.listed.at);
            let found = match self.clone().select(store, columns, far, after).await? {
                Some((sql, args)) => {
                    store.page_of(sql, at, (after, page.limit), args, &read).await?
                }
                None => Page { data: Vec::new(), next_cursor: None },
            };
            if found.next_cursor.is_some() || look_back.is_at_its_end() {
                return Ok(found);
            }
        }
    }

    /// The SELECT of a page of the rows between a position and a time, with its parameters behind the first three;
    /// `None` when there is no such row.
    pub(super) async fn select(
        mut self,
        store: &Store,
        columns: &str,
        far: Timestamp,
        after: Cursor,
    ) -> Result<Option<(String, Args<'a>)>> {
        let (at, order) = (self.listed.at, OrderSql::of(self.bounds.order));
        let end = self.parameter(far);
        self.checks.push(self.dialect.weak(&format!("{at} {} {end}", order.within)));
        let keys = match self.source(store, (far, after)).await? {
            Source::Nothing => return Ok(None),
            Source::Index(index, conditions) => {
                let table = self.table_by(index);
                let page = order.page(at);
                let sql = format!("SELECT {columns} FROM {table} WHERE {conditions} {page}");
                return Ok(Some((sql, self.args)));
            }
            Source::Parts(parts) => self.keys_of_parts(&parts),
            Source::Types(types) => self.keys_of_types(types),
            Source::Keys(column, keys) => self.keys_of_values(column, keys),
            Source::Prefix(prefix) => self.keys_of_prefix(prefix),
        };
        let sql = self.rows_of(columns, &keys, &end);
        Ok(Some((sql, self.args)))
    }

    async fn source(&mut self, store: &Store, span: (Timestamp, Cursor)) -> Result<Source<'a>> {
        if let Some(parts) = self.parts.take() {
            self.checks.extend(self.filters.iter().map(|filter| filter.checked.clone()));
            self.check_types();
            return Ok(Source::Parts(parts));
        }
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
        }
        if self.filters.is_empty()
            && let Some((column, keys)) = self.keys.take()
        {
            return Ok(Source::Keys(column, keys));
        }
        self.check_types();
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
        Ok(Source::Index(first.and_then(|filter| filter.index), conditions.join(" AND ")))
    }

    /// The filter that the fewest rows pass; `None` if none passes one of them.
    async fn narrowest(&self, store: &Store, after: Cursor) -> Result<Option<usize>> {
        let checks = self.checks.join(" AND ");
        let counts = self.filters.iter().enumerate().map(|(number, filter)| {
            let IndexedFilter { by_index, index, .. } = filter;
            format!(
                "(SELECT count(*) FROM (SELECT 1 FROM {} WHERE {by_index} AND {checks} LIMIT $3) c)
                 AS n{number}",
                self.table_by(*index)
            )
        });
        let sql = format!("SELECT {}", counts.collect::<Vec<_>>().join(", "));
        let mut args = args![after.at, Uuid::max(), COUNTED_MAX];
        // Parameters of another query, which this statement does not use.
        args.extend((PARAMETERS_BEFORE..self.before).map(|_| Value::from(0_i64)));
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

    /// The table, by an index that SQLite is told.
    fn table_by(&self, index: Option<&str>) -> String {
        let table = self.listed.table;
        match (self.dialect, index) {
            (Dialect::Sqlite, Some(index)) => format!("{table} INDEXED BY {index}"),
            _ => table.to_owned(),
        }
    }

    /// A SELECT of the rows with the first of these keys: no payload is sorted. None is beyond `end`.
    fn rows_of(&self, columns: &str, keys: &str, end: &str) -> String {
        let Listed { table, at, .. } = self.listed;
        let (org, order) = (&self.org, OrderSql::of(self.bounds.order));
        let (near, far) = match self.bounds.order {
            ListOrder::NewestFirst => ("<=", ">="),
            ListOrder::OldestFirst => (">=", "<="),
        };
        let sorted = order.sorted(at);
        format!(
            "SELECT {columns} FROM (
                 SELECT l.* FROM (SELECT * FROM ({keys}) k {sorted} LIMIT $3) k
                 JOIN {table} l ON l.id = k.id AND l.{at} = k.{at} AND l.org_id = {org}
                      AND l.{at} {far} {end} AND l.{at} {near} $1
             ) l WHERE true {}",
            order.page(at)
        )
    }
}
