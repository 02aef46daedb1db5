//! A JSON object, read field by field, with every fault listed.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::patch::Patch;
use super::rules::{Rules, STRAY_NAMES_MAX, shortened};
use super::values::{FromJson, wire_name};
use crate::domain::{Violation, did_you_mean, without_bom};
use crate::http::error::ApiError;

/// The fields of an object, taken one by one. [`Self::finish`] reports what was wrong or left over.
#[derive(Debug, Default)]
pub(in crate::http) struct JsonObject {
    entries: Vec<(String, Value)>,
    violations: Vec<Violation>,
    /// The names that were asked for, for hints at misspelt ones.
    known: Vec<&'static str>,
    /// The resource that a merge patch changes, as its owner reads it.
    current: Option<Value>,
    /// The paths of fields inside others that were dropped.
    dropped: Vec<&'static str>,
}

/// Removes the field at a path.
fn without(value: &mut Value, path: &str) {
    match (path.split_once('.'), value) {
        (None, Value::Object(fields)) => {
            fields.remove(path);
        }
        (Some((field, inside)), Value::Object(fields)) => {
            if let Some(value) = fields.get_mut(field) {
                without(value, inside);
            }
        }
        (_, _) => {}
    }
}

impl JsonObject {
    /// Parses a body.
    ///
    /// # Errors
    /// When it is not valid JSON, or not an object. Repeated fields are reported by [`Self::finish`].
    pub(in crate::http) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let Entries(entries) = serde_json::from_slice(without_bom(body)).map_err(|error| {
            if error.is_data() {
                let mut fault = Violation::new("", "type", "the body must be a JSON object");
                fault.locate("");
                ApiError::invalid(fault)
            } else {
                ApiError::MalformedJson(error.to_string())
            }
        })?;
        let mut object = Self { entries, ..Self::default() };
        object.refuse_repeated();
        Ok(object)
    }

    /// The fields of a parsed object.
    pub(in crate::http) fn of(object: serde_json::Map<String, Value>) -> Self {
        Self { entries: object.into_iter().collect(), ..Self::default() }
    }

    /// Drops the fields that are as in `current`: a merge patch may send back what it read.
    pub(in crate::http) fn drop_unchanged(&mut self, mut current: Value) {
        for path in &self.dropped {
            without(&mut current, path);
        }
        self.entries.retain(|(name, value)| current.get(name) != Some(value));
        self.current = Some(current);
    }

    /// Drops these fields, whatever their values, before [`Self::drop_unchanged`]. `a.b` is the field `b` of the
    /// object `a`.
    pub(in crate::http) fn drop_fields(&mut self, paths: &[&'static str]) {
        for path in paths {
            let (field, inside) = path.split_once('.').unwrap_or((path, ""));
            if inside.is_empty() {
                self.entries.retain(|(name, _)| name != field);
            } else if let Some((_, value)) = self.entries.iter_mut().find(|(name, _)| name == field)
            {
                without(value, inside);
            }
        }
        self.dropped = paths.iter().copied().filter(|path| path.contains('.')).collect();
    }

    /// Whether there is nothing in it, and nothing wrong with it.
    pub(in crate::http) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.violations.is_empty()
    }

    /// Takes a field that must be there.
    pub(in crate::http) fn required<T: FromJson>(
        &mut self,
        name: &'static str,
        rules: &Rules<'_>,
    ) -> Option<T> {
        let name = wire_name(name);
        if !self.entries.iter().any(|(key, _)| key == name) {
            self.violations.push(Violation::new(name, "required", "is required"));
            self.known.push(name);
            return None;
        }
        self.optional(name, rules)
    }

    /// Takes a field that may be left out but is not null.
    pub(in crate::http) fn optional<T: FromJson>(
        &mut self,
        name: &'static str,
        rules: &Rules<'_>,
    ) -> Option<T> {
        let name = wire_name(name);
        let value = self.take(name)?;
        match T::from_json(name, &value, rules) {
            Ok(value) => Some(value),
            Err(violations) => {
                self.violations.extend(violations);
                None
            }
        }
    }

    /// Takes a field that may be left out or null.
    pub(in crate::http) fn nullable<T: FromJson>(
        &mut self,
        name: &'static str,
        rules: &Rules<'_>,
    ) -> Option<T> {
        match self.patch(name, rules) {
            Patch::Set(value) => Some(value),
            Patch::Keep | Patch::Reset => None,
        }
    }

    /// Takes a field that may be left out, or null to reset it.
    pub(in crate::http) fn patch<T: FromJson>(
        &mut self,
        name: &'static str,
        rules: &Rules<'_>,
    ) -> Patch<T> {
        let is_null = |(key, value): &(String, Value)| key == wire_name(name) && value.is_null();
        if self.entries.iter().any(is_null) {
            self.take(wire_name(name));
            return Patch::Reset;
        }
        self.optional(name, rules).map_or(Patch::Keep, Patch::Set)
    }

    /// Notes a rule that several fields break together.
    pub(in crate::http) fn note(&mut self, broken: Result<(), Violation>) {
        self.violations.extend(broken.err());
    }

    /// Ends the reading: `built`, unless a rule was broken.
    ///
    /// # Errors
    /// With every fault found, fields that nobody took among them.
    pub(in crate::http) fn finish<T>(mut self, built: Option<T>) -> Result<T, ApiError> {
        for (name, _) in self.entries.iter().take(STRAY_NAMES_MAX) {
            let is_read = self.current.as_ref().is_some_and(|current| current.get(name).is_some());
            let (code, rule) = if is_read {
                ("read_only", "cannot be changed; leave it out, or send it as it is".to_owned())
            } else {
                let near = did_you_mean(name, self.known.iter().copied());
                ("unknown", format!("is not a field that can be set here{near}"))
            };
            self.violations.push(Violation::new(shortened(name), code, rule));
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

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        let position = self.entries.iter().position(|(key, _)| key == name)?;
        Some(self.entries.remove(position).1)
    }

    /// Keeps the first of several fields of one name and reports the others.
    fn refuse_repeated(&mut self) {
        let mut names = HashSet::new();
        let repeated = self.entries.extract_if(.., |(name, _)| !names.insert(name.clone()));
        for (name, _) in repeated {
            if self.violations.len() < STRAY_NAMES_MAX {
                let rule = "must not be given twice";
                self.violations.push(Violation::new(shortened(&name), "repeated", rule));
            }
        }
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
    use serde_json::json;

    use super::super::values::Whole;
    use super::*;
    use crate::config::DestinationConfig;
    use crate::delivery::SsrfGuard;
    use crate::domain::{Scopes, SignatureScheme, Timestamp};
    use crate::http::request::{JsonFields, json_fields};

    json_fields! {
        /// One field of each presence.
        struct Sample {
            /// A scheme.
            required r#type: SignatureScheme,
            /// A switch.
            optional flag: bool,
            /// A number.
            nullable number: Whole<1, 9>,
            /// Another.
            patch other: Whole<1, 9>,
        }
    }

    fn read(mut object: JsonObject) -> Result<Sample, ApiError> {
        let guard = SsrfGuard::new(&DestinationConfig::default());
        let now = Timestamp::from_micros(0);
        let rules = Rules { guard: &guard, now, caller: Scopes::NONE };
        let built = Sample::read(&mut object, &rules);
        object.finish(built)
    }

    fn faults(result: Result<Sample, ApiError>) -> Vec<(String, &'static str)> {
        match result {
            Err(ApiError::Invalid(all)) => all.into_iter().map(|v| (v.field, v.code)).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn absent_null_and_present_fields_differ() {
        let body = br#"{"type":"ed25519","number":null,"other":null}"#;
        let sample = read(JsonObject::parse(body).unwrap()).unwrap();
        assert_eq!(sample.r#type, SignatureScheme::Ed25519);
        assert!(sample.flag.is_none() && sample.number.is_none());
        assert!(matches!(sample.other, Patch::Reset));
        let sample = read(JsonObject::parse(br#"{"type":"ed25519","other":7}"#).unwrap()).unwrap();
        assert!(matches!(sample.other, Patch::Set(Whole(7))));
    }

    #[test]
    fn every_fault_is_listed() {
        let body = br#"{"other":1,"other":2,"number":-1,"typo":0,"flag":null}"#;
        let expected = [
            ("other", "repeated"),
            ("type", "required"),
            ("flag", "type"),
            ("number", "range"),
            ("typo", "unknown"),
        ];
        let expected = expected.map(|(field, code)| (field.to_owned(), code));
        assert_eq!(faults(read(JsonObject::parse(body).unwrap())), expected);
    }

    #[test]
    fn unchanged_fields_of_a_merge_patch_are_ignored_and_changed_ones_read_only() {
        let body = br#"{"type":"ed25519","id":1,"created":2,"typo":3}"#;
        let mut object = JsonObject::parse(body).unwrap();
        object.drop_unchanged(json!({"id":1,"created":1}));
        let expected = [("created", "read_only"), ("typo", "unknown")];
        let expected = expected.map(|(field, code)| (field.to_owned(), code));
        assert_eq!(faults(read(object)), expected);
    }

    #[test]
    fn fields_that_change_by_themselves_are_ignored_also_inside_others() {
        let body = br#"{"type":"ed25519","at":1,"limits":{"max":5,"left":{"now":3}}}"#;
        let mut object = JsonObject::parse(body).unwrap();
        object.drop_fields(&["at", "limits.left.now"]);
        object.drop_unchanged(json!({"at":2,"limits":{"max":5,"left":{"now":4}}}));
        assert!(read(object).is_ok());
        let body = br#"{"type":"ed25519","limits":{"max":6,"left":{"now":3}}}"#;
        let mut object = JsonObject::parse(body).unwrap();
        object.drop_fields(&["limits.left.now"]);
        object.drop_unchanged(json!({"limits":{"max":5,"left":{"now":3}}}));
        assert_eq!(faults(read(object)), [("limits".to_owned(), "read_only")]);
    }

    #[test]
    fn declaration_gives_the_schema() {
        let mut schema = super::super::schema::ObjectSchema::default();
        Sample::describe(&mut schema);
        let schema = schema.into_value();
        assert_eq!(schema["required"], json!(["type"]));
        assert_eq!(
            schema["properties"]["flag"],
            json!({"type":"boolean","description":"A switch."})
        );
        let number = json!({"type":"integer","minimum":1,"maximum":9});
        let nullable = json!({"anyOf":[number,{"type":"null"}],"description":"A number."});
        assert_eq!(schema["properties"]["number"], nullable);
    }

    #[test]
    fn bodies_that_are_no_object_are_invalid_and_syntax_errors_name_their_position() {
        for body in ["[]", "1", "\"x\"", "null"] {
            let Err(ApiError::Invalid(found)) = JsonObject::parse(body.as_bytes()) else {
                panic!("{body}")
            };
            assert_eq!((found[0].field.as_str(), found[0].code), ("", "type"), "{body}");
        }
        let Err(ApiError::MalformedJson(position)) = JsonObject::parse(b"{\"a\":\n oops}") else {
            panic!("not malformed")
        };
        assert!(position.contains("line 2 column"), "{position}");
    }
}
