//! Names and words of schemas: those of Rust become those of the API.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// The document with the names that clients see, and words without Rust's.
pub(super) fn finished(mut document: Value) -> Value {
    polish(&mut document);
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        let named = std::mem::take(schemas).into_iter();
        *schemas = named.map(|(name, schema)| (public_name(&name), schema)).collect();
    }
    document
}

/// A view is named after what it shows.
fn public_name(name: &str) -> String {
    name.replace("View", "")
}

/// Follows the new names in references, and words descriptions for readers of JSON.
fn polish(value: &mut Value) {
    match value {
        Value::Object(fields) => polish_fields(fields),
        Value::Array(items) => items.iter_mut().for_each(polish),
        _ => {}
    }
}

fn polish_fields(fields: &mut Map<String, Value>) {
    const SCHEMAS: &str = "#/components/schemas/";
    for (name, value) in &mut *fields {
        match (name.as_str(), &value) {
            ("$ref", Value::String(target)) => {
                if let Some(target) = target.strip_prefix(SCHEMAS) {
                    *value = format!("{SCHEMAS}{}", public_name(target)).into();
                }
            }
            ("description", Value::String(words)) => {
                *value =
                    words.replace("`None`", "`null`").replace("[`", "`").replace("`]", "`").into();
            }
            _ => polish(value),
        }
    }
    list_constants(fields);
}

/// Writes constants as an enumeration, with what each means in its description: some generators of clients take the first
/// of several constants for the only one.
fn list_constants(fields: &mut Map<String, Value>) {
    if fields.get("const").is_some_and(Value::is_string)
        && let Some(constant) = fields.remove("const")
    {
        fields.insert("enum".to_owned(), json!([constant]));
    }
    let Some(Value::Array(variants)) = fields.get("oneOf") else { return };
    if !variants.iter().all(|variant| variant.get("enum").is_some()) {
        return;
    }
    let mut description =
        fields.get("description").and_then(Value::as_str).unwrap_or("").to_owned();
    let mut constants = Vec::new();
    for variant in variants {
        let names = variant["enum"].as_array().into_iter().flatten();
        if let Some(meaning) = variant.get("description").and_then(Value::as_str) {
            let names: Vec<&str> = names.clone().filter_map(Value::as_str).collect();
            let _ = write!(description, "\n\n`{}`: {meaning}", names.join("`, `"));
        }
        constants.extend(names.cloned());
    }
    fields.remove("oneOf");
    fields.insert("type".to_owned(), "string".into());
    fields.insert("enum".to_owned(), constants.into());
    fields.insert("description".to_owned(), description.trim_start().into());
}
