//! JSON bodies of the API's own resources, field by field, with every fault listed.
//!
//! Derived deserialisers stop at the first fault; these bodies are small and rare, so they are read
//! into values and taken apart by name. Events are not: they have a parser of their own.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::{FromRequest, Request};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::body;
use super::error::ApiError;
use super::query::Query;
use super::state::AppState;
use crate::domain::Violation;

/// Bytes in such a body at most: a URL, a description and a hundred filters fit well.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Unknown and repeated fields listed at most: enough to see the mistake.
const STRAY_FIELDS_MAX: usize = 8;
/// Characters of an unknown field's name that are repeated to the caller.
const NAME_CHARS_MAX: usize = 64;

/// What a field's value becomes, or the rules that it breaks.
pub(super) type Checked<T> = Result<T, Vec<Violation>>;

/// The fields of an object, taken one by one. [`Self::finish`] reports what was wrong or left.
#[derive(Debug, Default)]
pub(super) struct JsonObject {
    entries: Vec<(String, Value)>,
    violations: Vec<Violation>,
}

/// The fields of a body that may be left out altogether, and is then an object without fields.
#[derive(Debug)]
pub(super) struct OptionalJsonObject(pub(super) JsonObject);

/// A request that says all it has to say by its path: it has no query, and no body but an object without
/// fields.
#[derive(Debug)]
pub(super) struct EmptyBody;

impl JsonObject {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let Entries(entries) = serde_json::from_slice(body).map_err(|error| {
            if error.is_data() {
                ApiError::invalid(Violation::new("", "type", "the body must be a JSON object"))
            } else {
                ApiError::MalformedJson(error.to_string())
            }
        })?;
        let mut fields = Self { entries, violations: Vec::new() };
        fields.refuse_repeated();
        Ok(fields)
    }

    /// Takes a field that must be there.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<T> {
        if !self.entries.iter().any(|(key, _)| key == name) {
            self.violations.push(Violation::new(name, "required", "is required"));
            return None;
        }
        self.optional(name, check)
    }

    /// Takes a field that may be left out but is not null.
    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<T> {
        let value = self.take(name)?;
        match check(&value) {
            Ok(value) => Some(value),
            Err(violations) => {
                self.violations.extend(violations);
                None
            }
        }
    }

    /// Takes a field that may be left out (`None`) or null (`Some(None)`).
    #[expect(clippy::option_option, reason = "the form that the domain's changes have, too")]
    pub(super) fn nullable<T>(
        &mut self,
        name: &str,
        check: impl FnOnce(&Value) -> Checked<T>,
    ) -> Option<Option<T>> {
        self.optional(name, |value| match value {
            Value::Null => Ok(None),
            value => check(value).map(Some),
        })
    }

    /// Notes a rule that several fields break together.
    pub(super) fn note(&mut self, broken: Result<(), Violation>) {
        self.violations.extend(broken.err());
    }

    /// Ends the taking: `built`, unless a rule was broken.
    ///
    /// # Errors
    /// With every fault found, fields that nobody took among them.
    pub(super) fn finish<T>(mut self, built: Option<T>) -> Result<T, ApiError> {
        for (name, _) in self.entries.iter().take(STRAY_FIELDS_MAX) {
            let rule = "is not a field that can be set here";
            self.violations.push(Violation::new(shortened(name), "unknown", rule));
        }
        match built {
            Some(built) if self.violations.is_empty() => Ok(built),
            _ => {
                for violation in &mut self.violations {
                    violation.locate("");
                }
                Err(ApiError::Invalid(self.violations))
            }
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let place = self.entries.iter().position(|(key, _)| key == name)?;
        Some(self.entries.remove(place).1)
    }

    /// Keeps the first of several fields of one name and reports the others.
    fn refuse_repeated(&mut self) {
        let mut names = HashSet::new();
        let repeated = self.entries.extract_if(.., |(name, _)| !names.insert(name.clone()));
        for (name, _) in repeated {
            if self.violations.len() < STRAY_FIELDS_MAX {
                let rule = "must not be given twice";
                self.violations.push(Violation::new(shortened(&name), "repeated", rule));
            }
        }
    }
}

/// Takes a string and has it checked by a rule of the domain.
pub(super) fn string<T>(
    field: &str,
    value: &Value,
    check: impl FnOnce(&str) -> Result<T, Violation>,
) -> Checked<T> {
    let Value::String(text) = value else {
        return Err(vec![Violation::new(field, "type", "must be a string")]);
    };
    check(text).map_err(|violation| vec![violation])
}

/// Takes a word and has it parsed; `rule` says what it must be.
pub(super) fn word<T: FromStr>(field: &str, value: &Value, rule: &str) -> Checked<T> {
    string(field, value, |text| text.parse().map_err(|_| Violation::new(field, "format", rule)))
}

/// Takes a boolean.
pub(super) fn boolean(field: &str, value: &Value) -> Checked<bool> {
    value.as_bool().ok_or_else(|| vec![Violation::new(field, "type", "must be true or false")])
}

/// Takes a whole number of this range.
pub(super) fn number(field: &str, value: &Value, range: &RangeInclusive<u32>) -> Checked<u32> {
    let Value::Number(number) = value else {
        return Err(vec![Violation::new(field, "type", Violation::range_rule(range))]);
    };
    let whole = number.as_u64().and_then(|number| u32::try_from(number).ok());
    let number = whole.filter(|number| range.contains(number));
    number.ok_or_else(|| vec![Violation::range(field, range)])
}

fn shortened(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

impl FromRequest<AppState> for JsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &AppState) -> Result<Self, ApiError> {
        Query::of(request.uri()).finish()?;
        body::require_json(request.headers())?;
        Self::parse(&body::read(request, BODY_BYTES_MAX).await?)
    }
}

impl FromRequest<AppState> for OptionalJsonObject {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &AppState) -> Result<Self, ApiError> {
        Query::of(request.uri()).finish()?;
        let json = body::require_json(request.headers());
        let body = body::read(request, BODY_BYTES_MAX).await?;
        // Whatever it is declared as: many clients declare JSON with every request.
        if body.is_empty() {
            return Ok(Self(JsonObject::default()));
        }
        json?;
        JsonObject::parse(&body).map(Self)
    }
}

impl FromRequest<AppState> for EmptyBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &AppState) -> Result<Self, ApiError> {
        let OptionalJsonObject(fields) = OptionalJsonObject::from_request(request, app).await?;
        fields.finish(Some(Self))
    }
}

/// An object's entries as they come, repeated ones included.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults<T>(result: Result<T, ApiError>) -> Vec<(String, &'static str)> {
        match result {
            Err(ApiError::Invalid(all)) => all.into_iter().map(|v| (v.field, v.code)).collect(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }

    fn text(field: &'static str) -> impl Fn(&Value) -> Checked<String> {
        move |value| string(field, value, |text| Ok(text.to_owned()))
    }

    #[test]
    fn absent_null_and_present_fields_are_told_apart() {
        let mut fields = JsonObject::parse(br#"{"a":"x","b":null}"#).unwrap();
        assert_eq!(fields.nullable("a", text("a")), Some(Some("x".to_owned())));
        assert_eq!(fields.nullable("b", text("b")), Some(None));
        assert_eq!(fields.nullable("c", text("c")), None);
        assert!(faults(fields.finish(Some(()))).is_empty());
    }

    #[test]
    fn every_fault_is_listed() {
        let body = br#"{"a":1,"b":"x","b":2,"n":-1,"typo":0,"flag":null}"#;
        let mut fields = JsonObject::parse(body).unwrap();
        fields.required("a", text("a"));
        fields.optional("b", text("b"));
        fields.required("c", text("c"));
        fields.optional("n", |value| number("n", value, &(1..=9)));
        fields.optional("flag", |value| boolean("flag", value));
        let expected = [
            ("b", "repeated"),
            ("a", "type"),
            ("c", "required"),
            ("n", "range"),
            ("flag", "type"),
            ("typo", "unknown"),
        ];
        let expected = expected.map(|(field, code)| (field.to_owned(), code));
        assert_eq!(faults(fields.finish(Some(()))), expected);
    }

    #[test]
    fn number_that_is_wrong_in_whatever_way_is_told_the_fields_own_range() {
        let take = |text: &str| number("n", &serde_json::from_str(text).unwrap(), &(1..=9));
        assert_eq!((take("1"), take("9")), (Ok(1), Ok(9)));
        for wrong in ["0", "10", "-1", "1.0", "1e0", "5000000000", "\"5\"", "true", "[]"] {
            let fault = &take(wrong).unwrap_err()[0];
            assert_eq!(fault.message, "must be a whole number from 1 to 9, in digits", "{wrong}");
        }
    }

    #[test]
    fn what_is_no_object_is_invalid_and_what_is_no_json_names_its_place() {
        for body in ["[]", "1", "\"x\"", "null"] {
            assert_eq!(
                faults(JsonObject::parse(body.as_bytes())),
                [(String::new(), "type")],
                "{body}"
            );
        }
        let Err(ApiError::MalformedJson(place)) = JsonObject::parse(b"{\"a\":\n oops}") else {
            panic!("not malformed")
        };
        assert!(place.contains("line 2 column"), "{place}");
    }
}
