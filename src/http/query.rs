//! Query strings, with every fault listed.
//!
//! A parameter that the route does not know is a fault: a misspelt filter that is ignored would
//! show rows that the caller believes it has left out.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::Uri;
use axum::http::request::Parts;
use url::form_urlencoded;

use super::error::ApiError;
use crate::domain::{PageRequest, Violation};

/// Unknown parameters listed at most: enough to see the mistake.
const STRAY_PARAMETERS_MAX: usize = 8;
/// Characters of an unknown parameter's name that are repeated to the caller.
const NAME_CHARS_MAX: usize = 64;

/// The rules of values that several routes take, in a query or in a body.
pub(super) mod rule {
    /// A moment.
    pub(in crate::http) const MOMENT: &str =
        "must be an RFC 3339 date and time such as 2026-01-31T12:00:00Z";
    /// A filter of event types.
    pub(in crate::http) const EVENT_TYPE: &str =
        "must be an event type such as user.login, a prefix such as user.*, or *";
    /// An endpoint.
    pub(in crate::http) const ENDPOINT: &str = "must be the id of an endpoint";
    /// Why something became a dead letter.
    pub(in crate::http) const REASON: &str = "must be exhausted, gone or unstorable";
}

/// The parameters of a request, taken one by one. [`Self::finish`] reports what was wrong or left.
#[derive(Debug)]
pub(super) struct Query {
    parameters: Vec<(String, String)>,
    violations: Vec<Violation>,
}

impl Query {
    /// The parameters behind the path of `uri`.
    pub(super) fn of(uri: &Uri) -> Self {
        Self::new(uri.query().unwrap_or_default())
    }

    fn new(text: &str) -> Self {
        let parameters = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        Self { parameters, violations: Vec::new() }
    }

    /// Takes the parameter `name`; `rule` says what it must be.
    pub(super) fn take<T: FromStr>(&mut self, name: &str, rule: &str) -> Option<T> {
        self.take_if(name, rule, |_| true)
    }

    /// Takes the parameter `name` if it also meets `holds`.
    pub(super) fn take_if<T: FromStr>(
        &mut self,
        name: &str,
        rule: &str,
        holds: impl FnOnce(&T) -> bool,
    ) -> Option<T> {
        let text = self.take_text(name)?;
        let value = text.parse().ok().filter(holds);
        if value.is_none() {
            self.violations.push(Violation::new(name, "format", rule));
        }
        value
    }

    /// Takes `limit` and `cursor`.
    pub(super) fn page(&mut self) -> PageRequest {
        let rule = format!("must be a number from 1 to {}", PageRequest::LIMIT_MAX);
        let in_range = |limit: &u32| (1..=PageRequest::LIMIT_MAX).contains(limit);
        let limit = self.take_if("limit", &rule, in_range).unwrap_or(PageRequest::LIMIT_DEFAULT);
        let after = self.take("cursor", "must be a next_cursor of an earlier answer");
        PageRequest { limit, after }
    }

    /// Ends the taking.
    ///
    /// # Errors
    /// With every fault found, parameters that nobody took among them.
    pub(super) fn finish(mut self) -> Result<(), ApiError> {
        for (name, _) in self.parameters.iter().take(STRAY_PARAMETERS_MAX) {
            let name: String = name.chars().take(NAME_CHARS_MAX).collect();
            self.violations.push(Violation::new(
                name,
                "unknown",
                "is not a parameter of this route",
            ));
        }
        if self.violations.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.violations)) }
    }

    /// Takes every parameter `name`, of which there may be one.
    fn take_text(&mut self, name: &str) -> Option<String> {
        let mut found = self.parameters.extract_if(.., |(key, _)| key == name);
        let (_, text) = found.next()?;
        if found.count() > 0 {
            self.violations.push(Violation::new(name, "repeated", "must not be given twice"));
            return None;
        }
        Some(text)
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::of(&parts.uri))
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
        let since: Option<Timestamp> = query.take("since", "");
        assert_eq!(since, Some(Timestamp::from_micros(1_000_000)));
        assert_eq!(query.page().limit, 7);
        assert!(faults(query).is_empty());
    }

    #[test]
    fn every_fault_is_listed() {
        let mut query = Query::new("limit=0&cursor=x&since=now&typ=a&until=1&until=2");
        query.page();
        let _: Option<Timestamp> = query.take("since", "must be a time");
        let _: Option<Timestamp> = query.take("until", "must be a time");
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
    fn flood_of_unknown_parameters_is_answered_shortly() {
        let query = Query::new(&"x=1&".repeat(1000));
        assert_eq!(faults(query).len(), STRAY_PARAMETERS_MAX);
    }
}
