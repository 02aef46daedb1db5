//! Lists that are merged from several: by event types with a prefix, by values of a column, or by other conditions.

use super::{ListPart, ListQuery};
use crate::domain::{Cursor, Timestamp};
use crate::store::engine::{Args, Dialect, Value, args};
use crate::store::event_type_range::after_prefix;
use crate::store::page::OrderSql;
use crate::store::{Result, Store};

/// Types with one prefix whose lists are merged.
pub(in crate::store) const TYPES_MERGED_MAX: usize = 64;
/// Rows with one prefix that are sorted.
const ROWS_SORTED_MAX: u32 = 10_000;
/// Partitions begin at midnight UTC.
const DAY_MICROS: i64 = 86_400_000_000;

impl<'a> ListQuery<'a> {
    /// Makes the prefix and the values conditions that are checked row by row.
    pub(super) fn check_types(&mut self) {
        if let Some(prefix) = self.prefix.take() {
            let prefix = self.parameter(prefix);
            self.checks.push(format!("substr(event_type, 1, length({prefix})) = {prefix}"));
        }
        if let Some((column, keys)) = self.keys.take() {
            let keys = self.parameter(keys);
            self.checks.push(match self.dialect {
                Dialect::Sqlite => format!("+{column} IN (SELECT value FROM json_each({keys}))"),
                Dialect::Postgres => format!("({column} = ANY ({keys})) IS TRUE"),
            });
        }
    }

    /// The types with a prefix, one more than are merged at most. Each is found by a step over the index.
    pub(super) async fn types(
        &self,
        store: &Store,
        prefix: &str,
        span: (Timestamp, Cursor),
    ) -> Result<Vec<String>> {
        let (days, bounds) = self.days(span, 4);
        let sql = types_sql(self.dialect, self.listed.table, &days);
        let mut args = args![self.org_id, prefix, after_prefix(prefix)];
        args.extend(bounds);
        store.engine.list(sql, args, |row| row.get("event_type")).await
    }

    /// Whether the rows with a prefix are so few that they can be sorted.
    pub(super) async fn has_few_rows(
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

    /// The condition on the days of a span, where the table has a partition per day; see [`days_sql`].
    fn days(&self, span: (Timestamp, Cursor), first: u32) -> (String, Args<'static>) {
        if self.dialect == Dialect::Sqlite || !self.listed.by_day {
            return (String::new(), Vec::new());
        }
        days_sql(self.listed.at, span, first)
    }

    /// The table, by its index on types.
    fn table_by_type(&self) -> String {
        self.table_by(Some(self.listed.by_type))
    }

    /// A SELECT of the keys of all rows with a prefix. A planner would otherwise walk the organisation's rows by time.
    pub(super) fn keys_of_prefix(&mut self, prefix: &'a str) -> String {
        let (at, column) = (self.listed.at, self.dialect.bytewise("event_type"));
        let (first, end) = (self.parameter(prefix), self.parameter(after_prefix(prefix)));
        let OrderSql { follows, .. } = OrderSql::of(self.bounds.order);
        format!(
            "WITH few AS MATERIALIZED (
                 SELECT {at}, id FROM {}
                 WHERE org_id = {} AND {column} >= {first} AND {column} < {end} AND {}
                   AND ({at}, id) {follows} ($1, $2)
             )
             SELECT * FROM few",
            self.table_by_type(),
            self.org,
            self.conditions()
        )
    }

    /// A SELECT of the keys of a page by each of these conditions.
    pub(super) fn keys_of_parts(&self, parts: &[ListPart]) -> String {
        let parts = parts.iter().map(|part| format!("SELECT * FROM ({}) p", self.keys_of(part)));
        parts.collect::<Vec<_>>().join(" UNION ALL ")
    }

    /// A SELECT of the keys of a page of each of these types.
    pub(super) fn keys_of_types(&mut self, types: Vec<String>) -> String {
        let condition =
            format!("org_id = {} AND {} = ", self.org, self.dialect.bytewise("event_type"));
        match self.dialect {
            Dialect::Sqlite => self.keys_of_each(&condition, types),
            Dialect::Postgres => {
                let types = self.parameter(serde_json::json!(types).to_string());
                format!(
                    "SELECT k.* FROM json_array_elements_text({types}::json) t (wanted)
                     CROSS JOIN LATERAL ({}) k",
                    self.keys_of(&by_index(format!("{condition}t.wanted")))
                )
            }
        }
    }

    /// A SELECT of the keys of a page of each of these values of a column.
    pub(super) fn keys_of_values(&mut self, column: &'static str, values: Vec<i64>) -> String {
        let condition = format!("{} AND {column} = ", self.scope());
        match self.dialect {
            Dialect::Sqlite => self.keys_of_each(&condition, values),
            Dialect::Postgres => {
                let values = self.parameter(values);
                format!(
                    "SELECT k.* FROM unnest({values}) t (wanted) CROSS JOIN LATERAL ({}) k",
                    self.keys_of(&by_index(format!("{condition}t.wanted")))
                )
            }
        }
    }

    fn keys_of_each(&mut self, condition: &str, values: Vec<impl Into<Value<'a>>>) -> String {
        let parts = self.parts_of_each(condition, values);
        self.keys_of_parts(&parts)
    }

    /// A list per value of a column.
    pub(super) fn parts_of_values(
        &mut self,
        column: &'static str,
        values: Vec<i64>,
    ) -> Vec<ListPart> {
        let condition = format!("{} AND {column} = ", self.scope());
        self.parts_of_each(&condition, values)
    }

    fn parts_of_each(
        &mut self,
        condition: &str,
        values: Vec<impl Into<Value<'a>>>,
    ) -> Vec<ListPart> {
        let part = |value| by_index(format!("{condition}{}", self.parameter(value)));
        values.into_iter().map(part).collect()
    }

    /// A SELECT of the keys of a page by an index.
    fn keys_of(&self, part: &ListPart) -> String {
        let ListPart { index, by_index } = part;
        let (at, table) = (self.listed.at, self.table_by(*index));
        let conditions = self.conditions();
        let page = OrderSql::of(self.bounds.order).page(at);
        format!("SELECT {at}, id FROM {table} WHERE {by_index} AND {conditions} {page}")
    }
}

const fn by_index(by_index: String) -> ListPart {
    ListPart { index: None, by_index }
}

/// A condition that leaves out the partitions of other days than those of a span, with its parameters, of which `first` is
/// the first. It passes all rows of the others: what an index on types reads in vain does not count.
pub(in crate::store) fn days_sql(
    at: &str,
    (far, after): (Timestamp, Cursor),
    first: u32,
) -> (String, Args<'static>) {
    let day = |at: Timestamp| at.micros().div_euclid(DAY_MICROS);
    let midnight = |day: i64| Timestamp::from_micros(day.saturating_mul(DAY_MICROS));
    let (from, to) = (far.min(after.at), far.max(after.at));
    (
        format!(" AND {at} >= ${first} AND {at} < ${}", first + 1),
        args![midnight(day(from)), midnight(day(to) + 1)],
    )
}

/// A SELECT of the event types between `$2` and `$3` that rows of the organisation `$1` have, one more than are merged
/// at most; `days` is a further condition.
pub(in crate::store) fn types_sql(dialect: Dialect, table: &str, days: &str) -> String {
    let column = dialect.bytewise("event_type");
    format!(
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
    )
}
