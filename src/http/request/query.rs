//! Query strings, with every fault listed.
//!
//! A parameter that the route does not know is a fault: a misspelt filter that is ignored would
//! show rows that the caller believes it has left out.

use axum::http::Uri;
use url::form_urlencoded;

use super::rules::{STRAY_NAMES_MAX, shortened};
use super::texts::{PageLimit, Text};
use super::values::wire_name;
use crate::domain::{Cursor, ListOrder, OrderedCursor, PageRequest, Violation, did_you_mean};
use crate::http::error::ApiError;

/// The parameters of a request, taken one by one. [`Self::finish`] reports what was wrong or left.
#[derive(Debug)]
pub(in crate::http) struct Query {
    parameters: Vec<(String, String)>,
    violations: Vec<Violation>,
    /// The names that were asked for, for hints at misspelt ones.
    known: Vec<&'static str>,
}

impl Query {
    /// The parameters behind the path of `uri`.
    pub(in crate::http) fn of(uri: &Uri) -> Self {
        Self::new(uri.query().unwrap_or_default())
    }

    fn new(text: &str) -> Self {
        let parameters = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        Self { parameters, violations: Vec::new(), known: Vec::new() }
    }

    /// Takes the parameter `name`.
    pub(in crate::http) fn take<T: Text>(&mut self, name: &'static str) -> Option<T> {
        let name = wire_name(name);
        let text = self.take_text(name)?;
        let value = T::from_text(&text);
        if value.is_none() {
            self.violations.push(Violation::new(name, "format", T::fault(&text)));
        }
        value
    }

    /// Takes `limit` and `cursor`.
    pub(in crate::http) fn page(&mut self) -> PageRequest {
        let limit = self.limit();
        PageRequest { limit, after: self.take("cursor") }
    }

    /// Takes `limit`, `order` and `cursor`, which belongs to that order.
    pub(in crate::http) fn ordered_page(&mut self) -> (PageRequest, ListOrder) {
        let limit = self.limit();
        let order = self.take::<ListOrder>("order").unwrap_or_default();
        (PageRequest { limit, after: self.ordered_cursor(order) }, order)
    }

    /// Takes `cursor`, which belongs to this order.
    pub(in crate::http) fn ordered_cursor(&mut self, order: ListOrder) -> Option<Cursor> {
        let cursor = self.take::<OrderedCursor>("cursor")?;
        if cursor.order == order {
            return Some(cursor.cursor);
        }
        let rule = format!("belongs to a list with order={}", cursor.order.as_str());
        self.violations.push(Violation::new("cursor", "order", rule));
        None
    }

    /// Takes `limit`.
    pub(in crate::http) fn limit(&mut self) -> u32 {
        self.take::<PageLimit>("limit").map_or(PageRequest::LIMIT_DEFAULT, |limit| limit.0)
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// With every fault found, parameters that nobody took among them.
    pub(in crate::http) fn finish(mut self) -> Result<(), ApiError> {
        for (name, _) in self.parameters.iter().take(STRAY_NAMES_MAX) {
            let near = did_you_mean(name, self.known.iter().copied());
            let rule = format!("is not a parameter of this route{near}");
            self.violations.push(Violation::new(shortened(name), "unknown", rule));
        }
        if self.violations.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.violations)) }
    }

    /// Takes every parameter `name`, of which there may be one.
    fn take_text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut found = self.parameters.extract_if(.., |(key, _)| key == name);
        let (_, text) = found.next()?;
        if found.count() > 0 {
            self.violations.push(Violation::new(name, "repeated", "must not be given twice"));
            return None;
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn faults(query: Query) -> Vec<(String, &'static str)> {
        match query.finish() {
            Ok(()) => Vec::new(),
            Err(ApiError::Invalid(all)) => all.into_iter().map(|v| (v.field, v.code)).collect(),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_are_decoded_and_parsed() {
        let mut query = Query::new("since=1970-01-01T00%3A00%3A01Z&limit=7");
        let since: Option<Timestamp> = query.take("since");
        assert_eq!(since, Some(Timestamp::from_micros(1_000_000)));
        assert_eq!(query.page().limit, 7);
        assert!(faults(query).is_empty());
    }

    #[test]
    fn every_fault_is_listed() {
        let mut query = Query::new("limit=0&cursor=x&since=now&typ=a&until=1&until=2");
        query.page();
        let _: Option<Timestamp> = query.take("since");
        let _: Option<Timestamp> = query.take("until");
        let expected = [
            ("limit", "format"),
            ("cursor", "format"),
            ("since", "format"),
            ("until", "repeated"),
            ("typ", "unknown"),
        ];
        assert_eq!(faults(query), expected.map(|(name, code)| (name.to_owned(), code)));
    }

    #[test]
    fn cursor_is_taken_in_its_own_order_only() {
        let cursor = Cursor { at: Timestamp::from_micros(7), id: uuid::Uuid::nil() };
        for (order, word) in [(ListOrder::NewestFirst, "desc"), (ListOrder::OldestFirst, "asc")] {
            let text = OrderedCursor { cursor, order }.to_string();
            for asked in ["desc", "asc"] {
                let mut query = Query::new(&format!("cursor={text}&order={asked}"));
                let (page, _) = query.ordered_page();
                assert_eq!(page.after.is_some(), asked == word);
                assert_eq!(faults(query).is_empty(), asked == word);
            }
        }
    }

    #[test]
    fn flood_of_unknown_parameters_is_answered_shortly() {
        let query = Query::new(&"x=1&".repeat(1000));
        assert_eq!(faults(query).len(), STRAY_NAMES_MAX);
    }
}
