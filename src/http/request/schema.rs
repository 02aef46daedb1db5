//! JSON Schema of requests, put together from the declarations of their fields.

use serde_json::{Map, Value, json};

use super::texts::Text;
use super::values::{FromJson, wire_name};
use crate::http::problem::Problem;

/// What a route takes in its body and query, as a document for clients can say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestSchema {
    /// JSON Schema of the body; `None` where the route takes none, or reads it by itself.
    pub body: Option<Value>,
    /// Media types of the body.
    pub media_types: &'static [&'static str],
    /// Whether the body may be left out.
    pub body_is_optional: bool,
    /// Bodies of other media types than `media_types`, with their schemas.
    pub other_bodies: Vec<(&'static str, Value)>,
    /// Schemas that the bodies refer to, by their names.
    pub components: Vec<(&'static str, Value)>,
    /// Query parameters, as OpenAPI parameter objects.
    pub query: Vec<Value>,
    /// Header parameters, as OpenAPI parameter objects.
    pub headers: Vec<Value>,
    /// JSON Schema of the parameter in the path.
    pub path: Option<Value>,
    /// Whether a request is charged to the limit of reads or of changes.
    pub is_charged: bool,
    /// Why these parts are refused.
    pub problems: Vec<Problem>,
}

/// A part of a request that a handler takes.
pub(in crate::http) trait Input {
    /// Adds what it takes to the route's description: nothing, for parts of the head.
    fn describe(_: &mut RequestSchema) {}
}

/// All that a handler takes, as axum lists it: a marker, then the arguments.
pub(in crate::http) trait Inputs {
    /// What they take together.
    fn schema() -> RequestSchema;
}

macro_rules! inputs {
    ($($argument:ident)*) => {
        impl<M, $($argument: Input),*> Inputs for (M, $($argument,)*) {
            fn schema() -> RequestSchema {
                #[allow(unused_mut, reason = "a handler may take nothing")]
                let mut schema = RequestSchema::default();
                $($argument::describe(&mut schema);)*
                schema
            }
        }
    };
}

inputs!();
inputs!(A);
inputs!(A B);
inputs!(A B C);
inputs!(A B C D);
inputs!(A B C D E);
inputs!(A B C D E F);

/// The schema of an object, built field by field.
#[derive(Debug, Default)]
pub(in crate::http) struct ObjectSchema {
    properties: Map<String, Value>,
    required: Vec<&'static str>,
}

impl ObjectSchema {
    pub(in crate::http) fn required<T: FromJson>(&mut self, ident: &'static str, doc: &str) {
        self.required.push(wire_name(ident));
        self.optional::<T>(ident, doc);
    }

    pub(in crate::http) fn optional<T: FromJson>(&mut self, ident: &'static str, doc: &str) {
        self.insert(ident, doc, T::schema());
    }

    pub(in crate::http) fn nullable<T: FromJson>(&mut self, ident: &'static str, doc: &str) {
        self.insert(ident, doc, json!({ "anyOf": [T::schema(), { "type": "null" }] }));
    }

    pub(in crate::http) fn patch<T: FromJson>(&mut self, ident: &'static str, doc: &str) {
        self.nullable::<T>(ident, doc);
    }

    pub(in crate::http) fn into_value(self) -> Value {
        json!({
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }

    fn insert(&mut self, ident: &'static str, doc: &str, mut schema: Value) {
        schema["description"] = doc.trim().into();
        self.properties.insert(wire_name(ident).to_owned(), schema);
    }
}

/// A header parameter as OpenAPI describes it.
pub(in crate::http) fn header(name: &str, doc: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "header", "description": doc, "schema": schema})
}

/// A query parameter as OpenAPI describes it.
pub(in crate::http) fn parameter<T: Text>(ident: &'static str, doc: &str) -> Value {
    json!({
        "name": wire_name(ident),
        "in": "query",
        "description": doc.trim(),
        "schema": T::text_schema(),
    })
}
