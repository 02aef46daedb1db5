//! The filters of a list.

use super::{ListPart, ListQuery};
use crate::domain::{EventType, EventTypeFilter};
use crate::store::engine::Value;

/// A filter with an index.
#[derive(Clone, Debug)]
pub(super) struct IndexedFilter {
    /// The condition that reads its index, with that on the organisation.
    pub(super) by_index: String,
    /// The same condition in a form that chooses no index.
    pub(super) checked: String,
    /// The index, where SQLite would choose another one.
    pub(super) index: Option<&'static str>,
}

impl<'a> ListQuery<'a> {
    /// Rows with this value, by an index on organisation and column.
    pub(in crate::store) fn equal(
        &mut self,
        column: &str,
        index: &'static str,
        value: Option<impl Into<Value<'a>>>,
    ) {
        let Some(value) = value else { return };
        let value = self.parameter(value);
        let by_index = format!("org_id = {} AND {column} = {value}", self.org);
        let checked = self.dialect.unindexed(column, &value);
        self.filters.push(IndexedFilter { by_index, checked, index: Some(index) });
    }

    /// Rows with this value that pass `is_in`, by an index of those, on organisation and column.
    pub(in crate::store) fn equal_within(
        &mut self,
        (column, index, is_in): (&str, &'static str, &str),
        value: Option<impl Into<Value<'a>>>,
    ) {
        let Some(value) = value else { return };
        let value = self.parameter(value);
        let by_index = format!("org_id = {} AND {column} = {value} AND {is_in}", self.org);
        let checked = format!("{} AND {is_in}", self.dialect.unindexed(column, &value));
        self.filters.push(IndexedFilter { by_index, checked, index: Some(index) });
    }

    /// Rows with this value, by an index on the column alone, whose values belong to one organisation.
    pub(in crate::store) fn equal_unscoped(
        &mut self,
        column: &str,
        index: Option<&'static str>,
        value: Option<impl Into<Value<'a>>>,
    ) {
        let Some(value) = value else { return };
        let value = self.parameter(value);
        let by_index = format!("{column} = {value} AND {}", self.scope());
        let checked = self.dialect.unindexed(column, &value);
        self.filters.push(IndexedFilter { by_index, checked, index });
    }

    /// Rows that pass a condition, which is that of an index on what `by_index` says beside it.
    pub(in crate::store) fn special(&mut self, index: &'static str, by_index: &str, checked: &str) {
        let (by_index, checked) = (by_index.to_owned(), checked.to_owned());
        self.filters.push(IndexedFilter { by_index, checked, index: Some(index) });
    }

    /// Rows whose column is NULL, or is not, by a partial index each: the first and the second one.
    pub(in crate::store) fn null(
        &mut self,
        column: &str,
        (null, not_null): (&'static str, &'static str),
        is_null: Option<bool>,
    ) {
        let Some(is_null) = is_null else { return };
        let value = self.parameter(is_null);
        let (not, index) = if is_null { ("", null) } else { (" NOT", not_null) };
        let by_index = format!("org_id = {} AND {column} IS{not} NULL", self.org);
        let checked = format!("({column} IS NULL) IS NOT DISTINCT FROM {value}");
        self.filters.push(IndexedFilter { by_index, checked, index: Some(index) });
    }

    /// Rows whose `event_type` passes, by an index that compares byte by byte.
    pub(in crate::store) fn event_type(&mut self, filter: Option<&'a EventTypeFilter>) {
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
        let index = Some(self.listed.by_type);
        self.filters.push(IndexedFilter { by_index, checked, index });
    }

    /// Rows with one of these values, which belong to the organisation, by an index on the column.
    pub(in crate::store) fn one_of(&mut self, column: &'static str, keys: Vec<i64>) {
        self.keys = Some((column, keys));
    }

    /// Rows that pass one of these conditions, each by an index.
    pub(in crate::store) fn parts(&mut self, parts: Vec<ListPart>) {
        self.parts = Some(parts);
    }

    /// Rows that pass a condition, which is checked row by row.
    pub(in crate::store) fn check(&mut self, condition: String) {
        self.checks.push(condition);
    }
}
