//! The values that request fields hold: how each is read, and what its schema is.

use std::collections::HashSet;

use serde_json::{Value, json};
use url::Url;

use super::rules::{Checked, Rules, STRAY_NAMES_MAX};
use super::texts::Text;
use crate::domain::{
    CustomHeaders, Endpoint, EventId, EventTypeFilter, EventTypeFilters, EventTypeRates, Org,
    OrgLimit, RetrySchedule, Scope, Scopes, Timestamp, Violation,
};

/// The name of a field on the wire: `type` for `r#type`.
pub(in crate::http) fn wire_name(ident: &'static str) -> &'static str {
    ident.strip_prefix("r#").unwrap_or(ident)
}

/// A value in a JSON body.
pub(in crate::http) trait FromJson: Sized {
    /// Reads the value of `field`.
    fn from_json(field: &'static str, value: &Value, rules: &Rules<'_>) -> Checked<Self>;

    /// Its JSON Schema.
    fn schema() -> Value;
}

impl<T: Text> FromJson for T {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let Some(text) = value.as_str() else {
            return Err(vec![Violation::new(field, "type", T::type_fault(value))]);
        };
        T::from_text(text).ok_or_else(|| vec![Violation::new(field, "format", T::fault(text))])
    }

    fn schema() -> Value {
        T::text_schema()
    }
}

/// A whole number of this range.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct Whole<const MIN: u32, const MAX: u32>(pub(in crate::http) u32);

impl<const MIN: u32, const MAX: u32> FromJson for Whole<MIN, MAX> {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        whole(field, value, MIN, MAX).map(Self)
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// A value of the limit at this place of [`OrgLimit::ALL`].
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct LimitValue<const LIMIT: usize>(pub(in crate::http) u32);

impl<const LIMIT: usize> FromJson for LimitValue<LIMIT> {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let range = OrgLimit::ALL[LIMIT].range();
        whole(field, value, *range.start(), *range.end()).map(Self)
    }

    fn schema() -> Value {
        let range = OrgLimit::ALL[LIMIT].range();
        json!({"type": "integer", "minimum": range.start(), "maximum": range.end()})
    }
}

impl FromJson for bool {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let wrong = || vec![Violation::new(field, "type", "must be true or false")];
        value.as_bool().ok_or_else(wrong)
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

/// The URL of an endpoint, where the server may deliver to it.
#[derive(Debug)]
pub(in crate::http) struct EndpointUrl(pub(in crate::http) Url);

impl FromJson for EndpointUrl {
    fn from_json(field: &'static str, value: &Value, rules: &Rules<'_>) -> Checked<Self> {
        let url = rules.guard.parse_url(string(field, value)?);
        url.map(Self).map_err(|violation| vec![violation])
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "uri", "maxLength": Endpoint::URL_BYTES_MAX})
    }
}

/// The description of an endpoint.
#[derive(Debug)]
pub(in crate::http) struct Description(pub(in crate::http) String);

impl FromJson for Description {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let text = string(field, value)?;
        Endpoint::check_description(text).map_err(|violation| vec![violation])?;
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string", "maxLength": Endpoint::DESCRIPTION_BYTES_MAX})
    }
}

/// The name of an organisation or key.
#[derive(Debug)]
pub(in crate::http) struct Name(pub(in crate::http) String);

impl FromJson for Name {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let text = string(field, value)?;
        Org::check_name(text).map_err(|violation| vec![violation])?;
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1, "maxLength": Org::NAME_BYTES_MAX})
    }
}

/// When a key expires: a time in the future.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct ExpiresAt(pub(in crate::http) Timestamp);

impl FromJson for ExpiresAt {
    fn from_json(field: &'static str, value: &Value, rules: &Rules<'_>) -> Checked<Self> {
        let at = Timestamp::from_json(field, value, rules)?;
        if at > rules.now {
            return Ok(Self(at));
        }
        Err(vec![Violation::new(field, "range", "must be in the future")])
    }

    fn schema() -> Value {
        Timestamp::text_schema()
    }
}

/// The scopes of a new key, of those that the caller has.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct OwnScopes(pub(in crate::http) Scopes);

impl FromJson for OwnScopes {
    fn from_json(field: &'static str, value: &Value, rules: &Rules<'_>) -> Checked<Self> {
        scopes(field, value, rules.caller).map(Self)
    }

    fn schema() -> Value {
        scopes_schema(Scope::ALL.iter().copied())
    }
}

/// The scopes of a new key of an organisation.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct TenantScopes(pub(in crate::http) Scopes);

impl FromJson for TenantScopes {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        scopes(field, value, Scopes::TENANT).map(Self)
    }

    fn schema() -> Value {
        scopes_schema(Scopes::TENANT_ALL.iter())
    }
}

/// Names every scope that is unknown or not in `grantable`.
pub(super) fn scopes(field: &'static str, value: &Value, grantable: Scopes) -> Checked<Scopes> {
    let most = Scope::ALL.len();
    let items = value.as_array().filter(|items| (1..=most).contains(&items.len()));
    let Some(items) = items else {
        let rule = format!("must be an array of 1 to {most} scopes");
        return Err(vec![Violation::new(field, "type", rule)]);
    };
    let mut all = Scopes::NONE;
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let scope = item.as_str().and_then(|text| text.parse::<Scope>().ok());
        match scope.filter(|scope| grantable.include(Scopes::of(*scope))) {
            Some(scope) => all = all.with(scope),
            None => faults.push(Violation::new(
                format!("{field}[{index}]"),
                "scope",
                format!("must be a scope that your key may grant: {}", grantable.with_included()),
            )),
        }
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

pub(super) fn scopes_schema(scopes: impl IntoIterator<Item = Scope>) -> Value {
    let scopes: Vec<&str> = scopes.into_iter().map(Scope::as_str).collect();
    json!({"type": "array", "minItems": 1, "items": {"type": "string", "enum": scopes}})
}

/// The ids of some events, each once.
#[derive(Debug)]
pub(in crate::http) struct EventIds(pub(in crate::http) Vec<EventId>);

impl EventIds {
    /// Ids in a request at most.
    const MAX: usize = 1_000;
}

impl FromJson for EventIds {
    /// Names every id that is malformed, not only the first.
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let items = value.as_array().filter(|items| (1..=Self::MAX).contains(&items.len()));
        let Some(items) = items else {
            let rule = "must be an array of 1 to 1000 ids of events";
            return Err(vec![Violation::new(field, "type", rule)]);
        };
        let (mut ids, mut faults) = (Vec::with_capacity(items.len()), Vec::new());
        for (index, item) in items.iter().enumerate() {
            match item.as_str().and_then(|text| text.parse().ok()) {
                Some(id) => ids.push(id),
                None => faults.push(Violation::new(
                    format!("{field}[{index}]"),
                    "format",
                    "must be the id of an event",
                )),
            }
        }
        let mut seen = HashSet::new();
        ids.retain(|id| seen.insert(*id));
        faults.truncate(STRAY_NAMES_MAX);
        if faults.is_empty() { Ok(Self(ids)) } else { Err(faults) }
    }

    fn schema() -> Value {
        json!({
            "type": "array",
            "minItems": 1,
            "maxItems": Self::MAX,
            "items": {"type": "string", "format": "uuid"},
        })
    }
}

impl FromJson for RetrySchedule {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let Value::Array(items) = value else {
            let rule = "must be an array of durations such as [\"5s\", \"5m\"]";
            return Err(vec![Violation::new(field, "type", rule)]);
        };
        let waits: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or_default()).collect();
        Self::parse_waits(&waits)
    }

    fn schema() -> Value {
        json!({
            "type": "array",
            "maxItems": Self::WAITS_MAX,
            "items": {"type": "string", "examples": ["5s", "30m", "2h"]},
        })
    }
}

impl FromJson for EventTypeFilters {
    /// Names every filter that is malformed, not only the first.
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let Value::Array(items) = value else {
            return Err(vec![Violation::new(field, "type", "must be an array of strings")]);
        };
        let texts: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or_default()).collect();
        Self::parse(&texts).map_err(|first| {
            if texts.len() > EventTypeFilters::FILTERS_MAX {
                return vec![first];
            }
            let malformed = |text: &&str| text.parse::<EventTypeFilter>().is_err();
            let at = |(index, _)| Violation { field: format!("{field}[{index}]"), ..first.clone() };
            texts.iter().enumerate().filter(|(_, text)| malformed(text)).map(at).collect()
        })
    }

    fn schema() -> Value {
        json!({
            "type": "array",
            "maxItems": EventTypeFilters::FILTERS_MAX,
            "items": EventTypeFilter::text_schema(),
        })
    }
}

impl FromJson for CustomHeaders {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let rule = "must be an object of strings, as in {\"x-a\": \"b\"}";
        let wrong = || vec![Violation::new(field, "type", rule)];
        let object = value.as_object().ok_or_else(wrong)?;
        let headers = object.iter().map(|(name, value)| Some((name.as_str(), value.as_str()?)));
        Self::parse(headers.collect::<Option<Vec<_>>>().ok_or_else(wrong)?)
    }

    fn schema() -> Value {
        json!({
            "type": "object",
            "maxProperties": Self::FIELDS_MAX,
            "additionalProperties": {"type": "string", "maxLength": Self::VALUE_BYTES_MAX},
        })
    }
}

impl FromJson for EventTypeRates {
    fn from_json(field: &'static str, value: &Value, _: &Rules<'_>) -> Checked<Self> {
        let rule = "must be an object of numbers, as in {\"user.login\": 60}";
        let wrong = || vec![Violation::new(field, "type", rule)];
        let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let rates = value.as_object().ok_or_else(wrong)?;
        Self::parse(rates.iter().map(|(event_type, value)| (event_type.as_str(), number(value))))
            .map_err(|broken| {
                broken.into_iter().map(|one| Violation::new(field, one.code, one.message)).collect()
            })
    }

    fn schema() -> Value {
        let (min, max) = (*Self::RANGE.start(), *Self::RANGE.end());
        json!({
            "type": "object",
            "maxProperties": Self::TYPES_MAX,
            "additionalProperties": {"type": "integer", "minimum": min, "maximum": max},
        })
    }
}

fn string<'a>(field: &'static str, value: &'a Value) -> Checked<&'a str> {
    value.as_str().ok_or_else(|| vec![Violation::new(field, "type", "must be a string")])
}

fn whole(field: &'static str, value: &Value, min: u32, max: u32) -> Checked<u32> {
    let range = min..=max;
    let Value::Number(number) = value else {
        return Err(vec![Violation::new(field, "type", Violation::range_rule(&range))]);
    };
    let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
    let number = number.filter(|number| range.contains(number));
    number.ok_or_else(|| vec![Violation::range(field, &range)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_wrong_form_are_told_the_range() {
        let take = |text: &str| whole("n", &serde_json::from_str(text).unwrap(), 1, 9);
        assert_eq!((take("1"), take("9")), (Ok(1), Ok(9)));
        for wrong in ["0", "10", "-1", "1.0", "1e0", "5000000000", "\"5\"", "true", "[]"] {
            let fault = &take(wrong).unwrap_err()[0];
            assert_eq!(fault.message, "must be a whole number from 1 to 9, in digits", "{wrong}");
        }
    }

    #[test]
    fn every_malformed_filter_is_named() {
        let guard = crate::delivery::SsrfGuard::new(&crate::config::DestinationConfig::default());
        let now = Timestamp::from_micros(0);
        let rules = Rules { guard: &guard, now, caller: Scopes::NONE };
        let filters = |value: Value| EventTypeFilters::from_json("event_types", &value, &rules);
        let faults = filters(json!(["ok", "not ok", 7, "user.*"])).unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["event_types[1]", "event_types[2]"]);
        let many = vec!["a b"; 101];
        assert_eq!(filters(json!(many)).unwrap_err()[0].code, "length");
    }
}
