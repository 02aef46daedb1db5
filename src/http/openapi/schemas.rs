//! Names and words of schemas: those of Rust become those of the API.

use serde_json::{Map, Value};

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
    for (name, value) in fields {
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
}
