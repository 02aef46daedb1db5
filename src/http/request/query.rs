//! Query strings, with every fault listed.
//!
//! A parameter that the route does not know is a fault: a misspelt filter that is ignored would
//! show rows that the caller believes it has left out.

use axum::http::Uri;
use url::form_urlencoded;

use super::listing::{self, LabelListing, RequestedList};
use super::rules::{STRAY_NAMES_MAX, shortened};
use super::texts::{PageLimit, Text};
use super::values::wire_name;
use crate::domain::{ListCursor, ListOrder, ListTag, PageRequest, Violation, did_you_mean};
use crate::http::error::ApiError;

/// The parameters of a request, taken one by one. [`Self::finish`] reports what was wrong or left.
#[derive(Debug)]
pub(in crate::http) struct Query {
    parameters: Vec<(String, String)>,
    violations: Vec<Violation>,
    /// The list that it reads, if it reads one.
    list: ListTag,
    /// The names that were asked for, for hints at misspelt ones.
    known: Vec<&'static str>,
}

impl Query {
    /// The parameters behind the path of `uri`.
    pub(in crate::http) fn of(uri: &Uri) -> Self {
        Self::new(uri.path(), uri.query().unwrap_or_default())
    }

    /// The parameters of a query string behind a path.
    pub(in crate::http) fn new(path: &str, text: &str) -> Self {
        let parameters: Vec<_> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        let list = listing::tag(path, &parameters);
        Self { parameters, violations: Vec::new(), list, known: Vec::new() }
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

    /// Takes `limit`, `order` and `cursor` of a list.
    pub(in crate::http) fn page(&mut self) -> (PageRequest, RequestedList) {
        let limit = self.limit();
        let order = self.take::<ListOrder>("order").unwrap_or_default();
        let listing: RequestedList = self.listing(order, true);
        (listing.request(limit), listing)
    }

    /// Takes `order` and `cursor` of an export.
    pub(in crate::http) fn export(&mut self) -> RequestedList {
        let order = self.take::<ListOrder>("order").unwrap_or(ListOrder::OldestFirst);
        self.listing(order, false)
    }

    /// Takes `cursor` of a list that is not in the order of time.
    pub(in crate::http) fn labels(&mut self) -> LabelListing {
        self.listing(ListOrder::NewestFirst, false)
    }

    /// Takes `cursor`, which belongs to this list and this order.
    fn listing<P>(&mut self, order: ListOrder, has_both_directions: bool) -> RequestedList<P>
    where
        ListCursor<P>: Text,
    {
        let mut listing = RequestedList { tag: self.list, order, is_backward: false, after: None };
        let Some(cursor) = self.take::<ListCursor<P>>("cursor") else { return listing };
        if cursor.list.is_some_and(|list| list != listing.tag) {
            let rule =
                "belongs to another list, or to other filters; leave it out for the first page";
            self.violations.push(Violation::new("cursor", "list", rule));
        } else if cursor.order != order {
            let rule = format!("belongs to a list with order={}", cursor.order.as_str());
            self.violations.push(Violation::new("cursor", "order", rule));
        } else if cursor.is_backward && !has_both_directions {
            let rule = "must be a next_cursor: this list is not read backwards";
            self.violations.push(Violation::new("cursor", "direction", rule));
        } else {
            listing.is_backward = cursor.is_backward;
            listing.after = Some(cursor.position);
        }
        listing
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
    use crate::domain::{Cursor, Timestamp};

    fn of(query: &str) -> Query {
        Query::of(&format!("/api/events?{query}").parse().unwrap())
    }

    fn faults(query: Query) -> Vec<(String, &'static str)> {
        match query.finish() {
            Ok(()) => Vec::new(),
            Err(ApiError::Invalid(all)) => all.into_iter().map(|v| (v.field, v.code)).collect(),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_are_decoded_and_parsed() {
        let mut query = of("since=1970-01-01T00%3A00%3A01Z&limit=7");
        let since: Option<Timestamp> = query.take("since");
        assert_eq!(since, Some(Timestamp::from_micros(1_000_000)));
        assert_eq!(query.page().0.limit, 7);
        assert!(faults(query).is_empty());
    }

    #[test]
    fn every_fault_is_listed() {
        let mut query = of("limit=0&cursor=x&since=now&typ=a&until=1&until=2");
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
    fn cursor_is_taken_in_its_own_list_and_order_only() {
        let position = Cursor { at: Timestamp::from_micros(7), id: uuid::Uuid::nil() };
        let list = of("type=a").list;
        for (order, word) in [(ListOrder::NewestFirst, "desc"), (ListOrder::OldestFirst, "asc")] {
            for (list, is_backward) in [(Some(list), false), (Some(list), true), (None, false)] {
                let text = ListCursor { position, order, is_backward, list };
                for asked in ["desc", "asc"] {
                    let mut query = of(&format!("cursor={text}&order={asked}&type=a"));
                    let (page, listing) = query.page();
                    let _: Option<crate::domain::EventTypeFilter> = query.take("type");
                    assert_eq!(page.after.is_some(), asked == word);
                    assert_eq!(listing.is_backward, is_backward && asked == word);
                    assert_eq!(faults(query).is_empty(), asked == word);
                }
                let mut other = of(&format!("cursor={text}&order={word}"));
                assert_eq!(other.page().0.after.is_some(), list.is_none());
                let mut export = of(&format!("cursor={text}&order={word}&type=a"));
                assert_eq!(export.export().after.is_some(), !is_backward);
            }
        }
    }

    #[test]
    fn flood_of_unknown_parameters_is_answered_shortly() {
        let query = of(&"x=1&".repeat(1000));
        assert_eq!(faults(query).len(), STRAY_NAMES_MAX);
    }
}
