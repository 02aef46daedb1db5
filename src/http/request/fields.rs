//! Declarations of request structs: one line per field gives struct, parser and schema.

use super::json_object::JsonObject;
use super::query::Query;
use super::rules::Rules;
use super::schema::ObjectSchema;

/// A struct whose fields are read from a JSON object.
pub(in crate::http) trait JsonFields: Sized {
    /// Takes the fields from `object`, which notes every fault; `None` if there is one.
    fn read(object: &mut JsonObject, rules: &Rules<'_>) -> Option<Self>;

    /// Adds the fields to a schema.
    fn describe(schema: &mut ObjectSchema);
}

/// A struct whose fields are read from a query string.
pub(in crate::http) trait QueryFields: Sized {
    /// The parameters' identifiers, such as `r#type`.
    const IDENTS: &'static [&'static str];

    /// Takes the parameters from `query`, which notes every fault.
    fn read(query: &mut Query) -> Self;

    /// The parameters as OpenAPI describes them.
    fn describe(parameters: &mut Vec<serde_json::Value>);
}

/// Declares a struct that is read from a JSON body. Before each field stands its presence:
/// - `required`: must be there;
/// - `optional`: may be left out, not `null`;
/// - `nullable`: may be left out or `null`, which means the same;
/// - `patch`: a [`Patch`];
/// - `group`: the fields of another such struct, in the same object.
///
/// `check(path)` names a function that judges several fields together.
macro_rules! json_fields {
    (
        $(#[doc = $doc:literal])+
        $vis:vis struct $name:ident $(check($check:path))? {
            $($(#[doc = $field_doc:literal])+ $presence:ident $field:ident: $type:ty,)*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        $vis struct $name {
            $($(#[doc = $field_doc])+
            pub(in crate::http) $field: $crate::http::request::json_fields!(@type $presence $type),)*
        }

        impl $crate::http::request::JsonFields for $name {
            fn read(
                object: &mut $crate::http::request::json_object::JsonObject,
                rules: &$crate::http::request::rules::Rules<'_>,
            ) -> Option<Self> {
                $(let $field = $crate::http::request::json_fields!(
                    @read $presence $type, object, stringify!($field), rules
                );)*
                let all = Self { $($field: $field?,)* };
                $(object.note($check(&all));)?
                Some(all)
            }

            fn describe(schema: &mut $crate::http::request::schema::ObjectSchema) {
                $($crate::http::request::json_fields!(
                    @describe $presence $type, schema, stringify!($field), concat!($($field_doc),+)
                );)*
            }
        }
    };
    (@type required $type:ty) => { $type };
    (@type group $type:ty) => { $type };
    (@type optional $type:ty) => { Option<$type> };
    (@type nullable $type:ty) => { Option<$type> };
    (@type patch $type:ty) => { $crate::http::request::Patch<$type> };
    (@read group $type:ty, $object:ident, $name:expr, $rules:ident) => {
        <$type as $crate::http::request::JsonFields>::read($object, $rules)
    };
    (@read required $type:ty, $object:ident, $name:expr, $rules:ident) => {
        $object.required::<$type>($name, $rules)
    };
    (@read $presence:ident $type:ty, $object:ident, $name:expr, $rules:ident) => {
        Some($object.$presence::<$type>($name, $rules))
    };
    (@describe group $type:ty, $schema:ident, $name:expr, $doc:expr) => {
        <$type as $crate::http::request::JsonFields>::describe($schema)
    };
    (@describe $presence:ident $type:ty, $schema:ident, $name:expr, $doc:expr) => {
        $schema.$presence::<$type>($name, $doc)
    };
}
pub(in crate::http) use json_fields;

/// Declares a struct that is read from a query string. Every parameter may be left out.
macro_rules! query_fields {
    (
        $(#[doc = $doc:literal])+
        $vis:vis struct $name:ident {
            $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        $vis struct $name {
            $($(#[doc = $field_doc])+ pub(in crate::http) $field: Option<$type>,)*
        }

        impl $crate::http::request::QueryFields for $name {
            const IDENTS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn read(query: &mut $crate::http::request::query::Query) -> Self {
                Self { $($field: query.take(stringify!($field)),)* }
            }

            fn describe(parameters: &mut Vec<serde_json::Value>) {
                $(parameters.push($crate::http::request::schema::parameter::<$type>(
                    stringify!($field), concat!($($field_doc),+)
                ));)*
            }
        }
    };
}
pub(in crate::http) use query_fields;

/// No parameters beside those of every list.
impl QueryFields for () {
    const IDENTS: &'static [&'static str] = &[];

    fn read(_: &mut Query) -> Self {}

    fn describe(_: &mut Vec<serde_json::Value>) {}
}
