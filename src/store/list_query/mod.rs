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
//! A page that checks rows one by one examines a bounded number of them, and may end short with a cursor to go on: two
//! filters that many rows pass each may have none that passes both, see [`examined`].
//!
//! On PostgreSQL a list of a table with a partition per day looks at it in spans, see [`LookBack`].

mod examined;
mod filters;
mod types;

pub(super) use types::{TYPES_MERGED_MAX, days_sql, types_sql};

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
    /// The bounds of time, which need no index of their own: every index is in the order of time.
    range: Vec<String>,
    /// Conditions that are checked row by row.
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

/// The SELECT of a page.
#[derive(Debug)]
pub(super) struct Selected<'a> {
    pub(super) sql: String,
    /// Its parameters behind the first three.
    pub(super) args: Args<'a>,
    /// The last row that it examines, when more follow.
    pub(super) examined_to: Option<Cursor>,
}

/// What a page is read from.
enum Source<'a> {
    Nothing,
    /// One index, and whether it is known to have few rows.
    Index(ListPart, bool),
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
            range: vec![near],
            checks: Vec::new(),
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
        let mut after = self.bounds.start(page.after);
        let mut look_back = if self.listed.by_day {
            store.look_back(self.org_id, self.bounds.order, after.at, self.bounds.last()).await?
        } else {
            let end = match self.bounds.order {
                ListOrder::NewestFirst => START_OF_TIME,
                ListOrder::OldestFirst => END_OF_TIME,
            };
            LookBack::whole(self.bounds.order, self.bounds.last().unwrap_or(end))
        };
        // One row more than the page shows proves that more follow.
        let wanted = page.limit as usize + 1;
        let mut items = Vec::new();
        loop {
            let mut examined_to = None;
            let selected = self.clone().select(store, columns, look_back.next(), after).await?;
            if let Some(Selected { sql, args, examined_to: end }) = selected {
                let missing = (after, wanted - items.len());
                items.extend(store.items(sql, self.listed.at, missing, args, &read).await?);
                examined_to = end;
            }
            if items.len() >= wanted || examined_to.is_some() || look_back.is_at_its_end() {
                let page = Page::from_rows(items, page.limit, |(cursor, _)| *cursor);
                let next_cursor = page.next_cursor.or(examined_to);
                return Ok(Page { next_cursor, ..page.map(|(_, item)| item) });
            }
            after = look_back.behind();
        }
    }

    /// The SELECT of a page of the rows between a position and a time; `None` when there is no such row.
    pub(super) async fn select(
        mut self,
        store: &Store,
        columns: &str,
        far: Timestamp,
        after: Cursor,
    ) -> Result<Option<Selected<'a>>> {
        let (at, order) = (self.listed.at, OrderSql::of(self.bounds.order));
        let number_of_end = self.args.len();
        let end = self.parameter(far);
        self.range.push(self.dialect.weak(&format!("{at} {} {end}", order.within)));
        let source = self.source(store, (far, after)).await?;
        let examined_to = self.examined_to(store, &source, after).await?;
        if let Some(last) = examined_to {
            self.args[number_of_end] = last.at.into();
            let (last_at, last_id) = (self.parameter(last.at), self.parameter(last.id));
            self.checks.push(format!("({at}, id) {} ({last_at}, {last_id})", order.within));
        }
        let keys = match source {
            Source::Nothing => return Ok(None),
            Source::Index(ListPart { index, by_index }, _) => {
                let (table, conditions) = (self.table_by(index), self.conditions());
                let page = order.page(at);
                let sql = format!(
                    "SELECT {columns} FROM {table} WHERE {by_index} AND {conditions} {page}"
                );
                return Ok(Some(Selected { sql, args: self.args, examined_to }));
            }
            Source::Parts(parts) => self.keys_of_parts(&parts),
            Source::Types(types) => self.keys_of_types(types),
            Source::Keys(column, keys) => self.keys_of_values(column, keys),
            Source::Prefix(prefix) => self.keys_of_prefix(prefix),
        };
        let sql = self.rows_of(columns, &keys, &end);
        Ok(Some(Selected { sql, args: self.args, examined_to }))
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
            if self.checks.is_empty() {
                return Ok(Source::Keys(column, keys));
            }
            return Ok(Source::Parts(self.parts_of_values(column, keys)));
        }
        self.check_types();
        let (narrowest, is_short) = match self.filters.len() {
            0 => (None, false),
            1 => (Some(0), false),
            _ => match self.narrowest(store, span.1).await? {
                Some((narrowest, rows)) => (Some(narrowest), rows < u64::from(COUNTED_MAX)),
                None => return Ok(Source::Nothing),
            },
        };
        let mut part = ListPart { index: None, by_index: format!("org_id = {}", self.org) };
        for (number, filter) in self.filters.iter().enumerate() {
            if Some(number) == narrowest {
                part = ListPart { index: filter.index, by_index: filter.by_index.clone() };
            } else {
                self.checks.push(filter.checked.clone());
            }
        }
        Ok(Source::Index(part, is_short))
    }

    /// The filter that the fewest rows pass, and how many of them, up to [`COUNTED_MAX`]; `None` if none passes one of
    /// them.
    async fn narrowest(&self, store: &Store, after: Cursor) -> Result<Option<(usize, u64)>> {
        // What is checked row by row would have to be read without a bound.
        let range = self.range.join(" AND ");
        let counts = self.filters.iter().enumerate().map(|(number, filter)| {
            let IndexedFilter { by_index, index, .. } = filter;
            format!(
                "(SELECT count(*) FROM (SELECT 1 FROM {} WHERE {by_index} AND {range} LIMIT $3) c)
                 AS n{number}",
                self.table_by(*index)
            )
        });
        let sql = format!("SELECT {}", counts.collect::<Vec<_>>().join(", "));
        let args = self.args_of(&sql, args![after.at, Uuid::max(), COUNTED_MAX]);
        let row = store.engine.one(sql, args).await?;
        let mut narrowest = None;
        for index in 0..self.filters.len() {
            let count: u64 = row.get(&format!("n{index}"))?;
            if count == 0 {
                return Ok(None);
            }
            if narrowest.is_none_or(|(_, fewest)| count < fewest) {
                narrowest = Some((index, count));
            }
        }
        Ok(narrowest)
    }

    /// The arguments of another statement of this query, which has these first ones.
    fn args_of(&self, sql: &str, mut args: Args<'a>) -> Args<'a> {
        // Parameters of another query, which this statement does not use.
        args.extend((PARAMETERS_BEFORE..self.before).map(|_| Value::from(0_i64)));
        args.extend(self.args.iter().cloned());
        // PostgreSQL takes none behind the last one that the statement names. Those between have one type, whatever the
        // filters are: the statement is prepared once.
        while !args.is_empty() && !names_parameter(sql, args.len()) {
            args.pop();
        }
        for (index, value) in args.iter_mut().enumerate() {
            if !names_parameter(sql, index + 1) {
                *value = Value::from(0_i64);
            }
        }
        args
    }

    /// What a row passes beside the condition of an index.
    fn conditions(&self) -> String {
        let all: Vec<_> = self.range.iter().chain(&self.checks).map(String::as_str).collect();
        all.join(" AND ")
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
        // SQLite would read all keys again for each row of the organisation.
        let join = match self.dialect {
            Dialect::Sqlite => "CROSS JOIN",
            Dialect::Postgres => "JOIN",
        };
        format!(
            "SELECT {columns} FROM (
                 SELECT l.* FROM (SELECT * FROM ({keys}) k {sorted} LIMIT $3) k
                 {join} {table} l ON l.id = k.id AND l.{at} = k.{at} AND l.org_id = {org}
                      AND l.{at} {far} {end} AND l.{at} {near} $1
             ) l WHERE true {}",
            order.page(at)
        )
    }
}

/// Whether a statement names the parameter with this number.
fn names_parameter(sql: &str, number: usize) -> bool {
    let parameter = format!("${number}");
    sql.split(&parameter).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}
