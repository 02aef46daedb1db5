//! Rates of event types: how many events of one type an organisation may post.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Serialize;

use super::{EventType, Violation};

/// Event types with their events per minute. Types that are not named are limited by the organisation's rate
/// alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct EventTypeRates(BTreeMap<EventType, u32>);

/// Bytes of an entry besides the text of its type.
const BYTES_PER_TYPE: usize = 64;

/// The text is not a list of rates.
#[derive(Debug, thiserror::Error)]
#[error("is not a list of event types with rates")]
pub struct EventTypeRatesError;

impl EventTypeRates {
    /// Maximum types.
    pub const TYPES_MAX: usize = 50;
    /// The range of a rate: that of an organisation's.
    pub const RANGE: RangeInclusive<u32> = 1..=100_000_000;

    /// Parses types and rates; a rate of `None` is not a whole number.
    ///
    /// # Errors
    /// Every violation, each with the field `event_type_rates`.
    pub fn parse<'a>(
        rates: impl IntoIterator<Item = (&'a str, Option<u32>)>,
    ) -> Result<Self, Vec<Violation>> {
        let (mut accepted, mut broken) = (BTreeMap::new(), Vec::new());
        let mut violation = |code, rule| {
            if broken.len() < Self::TYPES_MAX {
                broken.push(Violation::new("event_type_rates", code, rule));
            }
        };
        for (event_type, rate) in rates {
            let parsed = event_type.parse::<EventType>();
            match (parsed, rate.filter(|rate| Self::RANGE.contains(rate))) {
                (Ok(event_type), Some(rate)) => {
                    accepted.insert(event_type, rate);
                }
                (Ok(event_type), None) => {
                    let rule = Violation::range_rule(&Self::RANGE);
                    violation("range", format!("{event_type} {rule}"));
                }
                (Err(error), _) => violation("format", format!("types {error}")),
            }
        }
        if accepted.len() > Self::TYPES_MAX {
            violation("length", format!("must be at most {} event types", Self::TYPES_MAX));
        }
        if broken.is_empty() { Ok(Self(accepted)) } else { Err(broken) }
    }

    /// The types of both with the lower rate of each: with twice as many types at most.
    pub fn lower(&self, other: &Self) -> Self {
        let mut lower = self.0.clone();
        for (event_type, rate) in other.iter() {
            let lowest = lower.entry(event_type.clone()).or_insert(rate);
            *lowest = rate.min(*lowest);
        }
        Self(lower)
    }

    /// Bytes in memory, roughly.
    pub fn bytes(&self) -> usize {
        self.0.keys().map(|event_type| event_type.as_str().len() + BYTES_PER_TYPE).sum()
    }

    /// Whether no type has a rate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rate of a type, if it has one.
    pub fn get(&self, event_type: &str) -> Option<(&EventType, u32)> {
        self.0.get_key_value(event_type).map(|(event_type, rate)| (event_type, *rate))
    }

    /// Every type with its rate, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&EventType, u32)> {
        self.0.iter().map(|(event_type, rate)| (event_type, *rate))
    }

    /// The rates as a JSON object, for the store; `None` for none.
    pub fn to_text(&self) -> Option<String> {
        (!self.is_empty()).then(|| serde_json::json!(self).to_string())
    }
}

/// Parses what [`EventTypeRates::to_text`] returned.
impl FromStr for EventTypeRates {
    type Err = EventTypeRatesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rates: BTreeMap<String, u32> =
            serde_json::from_str(text).map_err(|_| EventTypeRatesError)?;
        let rates = rates.iter().map(|(event_type, rate)| (event_type.as_str(), Some(*rate)));
        Self::parse(rates).map_err(|_| EventTypeRatesError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_back_as_they_were_written() {
        let rates = EventTypeRates::parse([("user.login", Some(5)), ("a", Some(7))]).unwrap();
        let text = rates.to_text().unwrap();
        assert_eq!(text, r#"{"a":7,"user.login":5}"#);
        assert_eq!(text.parse::<EventTypeRates>().unwrap(), rates);
        assert_eq!(rates.get("user.login").map(|(_, rate)| rate), Some(5));
        assert!(rates.get("user").is_none());
        assert_eq!(EventTypeRates::default().to_text(), None);
        assert!("[1]".parse::<EventTypeRates>().is_err());
    }

    #[test]
    fn lower_rate_of_each_type_is_kept() {
        let rates = |rates: &[(&'static str, u32)]| {
            EventTypeRates::parse(rates.iter().map(|(name, rate)| (*name, Some(*rate)))).unwrap()
        };
        let (operators, own) =
            (rates(&[("a", 5), ("b", 5), ("c", 5)]), rates(&[("b", 3), ("c", 9), ("d", 1)]));
        let lower = rates(&[("a", 5), ("b", 3), ("c", 5), ("d", 1)]);
        assert_eq!(operators.lower(&own), lower);
        assert_eq!(own.lower(&operators), lower);
    }

    #[test]
    fn every_broken_rate_is_named() {
        let codes = |rates: &[(&str, Option<u32>)]| -> Vec<&str> {
            let broken = EventTypeRates::parse(rates.iter().copied()).unwrap_err();
            broken.iter().map(|violation| violation.code).collect()
        };
        assert_eq!(
            codes(&[("a b", Some(1)), ("a", Some(0)), ("b", None)]),
            ["format", "range", "range"]
        );
        let names: Vec<String> = (0..51).map(|n| format!("t{n}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), Some(1))).collect();
        assert_eq!(codes(&many), ["length"]);
        assert!(EventTypeRates::parse(many[1..].iter().copied()).is_ok());
    }
}
