//! Event type filters: which events an endpoint subscribes to, or a list shows.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::event_type::EventTypeError;
use super::{EventType, Violation};

/// An event type filter: `user.login`, `user.*` (or `user:*`, `user/*`), or `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventTypeFilter {
    /// Every event that tenants post.
    All,
    /// Events whose type starts with this prefix, which ends in `.`, `:` or `/`.
    Prefix(String),
    /// Events of exactly this type.
    Exact(EventType),
}

impl EventTypeFilter {
    /// What it must be, for people.
    pub const RULE: &'static str = "must be an event type such as user.login, a prefix such as \
                                    user.*, user:* or user/*, or *";

    /// Whether events of this type match. `*` matches every event that tenants post; operational events match
    /// only a filter that names them.
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => !EventType::is_operational(event_type),
            Self::Prefix(prefix) => event_type.starts_with(prefix.as_str()),
            Self::Exact(exact) => exact.as_str() == event_type,
        }
    }

    const fn exact(&self) -> Option<&EventType> {
        match self {
            Self::Exact(exact) => Some(exact),
            Self::All | Self::Prefix(_) => None,
        }
    }

    fn text_len(&self) -> usize {
        match self {
            Self::All => 1,
            Self::Prefix(prefix) => prefix.len() + 1,
            Self::Exact(exact) => exact.as_str().len(),
        }
    }
}

impl FromStr for EventTypeFilter {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::All);
        }
        let prefix = text.strip_suffix('*').unwrap_or_default();
        match prefix.strip_suffix(['.', ':', '/']) {
            Some(words) if EventType::is_valid(words) => Ok(Self::Prefix(prefix.to_owned())),
            _ => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for EventTypeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Exact(exact) => exact.fmt(f),
        }
    }
}

impl Serialize for EventTypeFilter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The filters of an endpoint. An event matches if any filter does; without filters, every event that tenants
/// post matches.
///
/// The store keeps them as one text, separated by commas, which no filter can contain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct EventTypeFilters(Vec<EventTypeFilter>);

impl EventTypeFilters {
    /// Maximum filters.
    pub const FILTERS_MAX: usize = 100;

    /// Parses a list of filters.
    ///
    /// # Errors
    /// When a filter is malformed or there are more than 100.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, Violation> {
        if filters.len() > Self::FILTERS_MAX {
            return Err(Violation::new("event_types", "length", "must be at most 100 filters"));
        }
        let parse = |(index, text): (usize, &S)| {
            text.as_ref().parse().map_err(|_| {
                let field = format!("event_types[{index}]");
                Violation::new(field, "format", EventTypeFilter::RULE)
            })
        };
        filters.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// The types that match, when every filter names one.
    pub fn exact_types(&self) -> Option<Vec<&EventType>> {
        let types = self.0.iter().map(EventTypeFilter::exact).collect::<Option<Vec<_>>>();
        types.filter(|types| !types.is_empty())
    }

    /// Whether events of this type match.
    pub fn matches(&self, event_type: &str) -> bool {
        let all = [EventTypeFilter::All];
        let filters = if self.0.is_empty() { &all[..] } else { &self.0 };
        filters.iter().any(|filter| filter.matches(event_type))
    }

    /// The bytes of their text, without the commas.
    pub fn text_len(&self) -> usize {
        self.0.iter().map(EventTypeFilter::text_len).sum()
    }
}

impl FromStr for EventTypeFilters {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let filters: Vec<&str> = text.split(',').map(str::trim).filter(|f| !f.is_empty()).collect();
        Self::parse(&filters)
    }
}

impl fmt::Display for EventTypeFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, filter) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            filter.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_one_type_a_prefix_or_everything() {
        let filters: EventTypeFilters = "user.login, invoice.*".parse().unwrap();
        assert!(filters.matches("user.login"));
        assert!(filters.matches("invoice.paid"));
        assert!(filters.matches("invoice.line.added"));
        assert!(!filters.matches("user.login.failed"));
        assert!(!filters.matches("invoice"));
        assert!(!filters.matches("invoices.paid"));
        assert!(EventTypeFilters::default().matches("anything"));
        assert!("*".parse::<EventTypeFilters>().unwrap().matches("anything"));
        assert_eq!(filters.to_string(), "user.login,invoice.*");
    }

    #[test]
    fn prefixes_end_in_any_separator() {
        for (filter, good, bad) in [
            ("user:*", "user:created", "user.created"),
            ("acme/user/*", "acme/user/created", "acme/users/created"),
            ("a.b:*", "a.b:c/d", "a.b.c"),
        ] {
            let filters: EventTypeFilters = filter.parse().unwrap();
            assert!(filters.matches(good) && !filters.matches(bad), "{filter}");
            assert_eq!(filters.to_string(), filter);
        }
        for bad in ["user*", ".*", ":*", "user:.*", "user.**", "**"] {
            assert!(bad.parse::<EventTypeFilters>().is_err(), "{bad}");
        }
    }

    #[test]
    fn operational_events_match_only_filters_that_name_them() {
        let disabled = "hookgate.endpoint.disabled";
        for named in ["hookgate.*", "*,hookgate.endpoint.*", disabled] {
            assert!(named.parse::<EventTypeFilters>().unwrap().matches(disabled), "{named}");
        }
        for other in ["", "*", "endpoint.*", "hookgate.delivery.exhausted"] {
            assert!(!other.parse::<EventTypeFilters>().unwrap().matches(disabled), "{other}");
        }
        assert!(EventTypeFilters::default().matches("hookgates.own"));
    }

    #[test]
    fn malformed_filter_is_named_by_its_index() {
        let violation = EventTypeFilters::parse(&["ok", "not ok"]).unwrap_err();
        assert_eq!(violation.field, "event_types[1]");
    }
}
