//! What the extractors of bodies and queries take, and why they refuse it, for the description of the API.

use super::extractors::{
    Body, BodyAndParameters, EmptyBody, EmptyBodyAndParameters, ExportList, LabelList, List,
    MergePatch, NoQuery, OptionalBody, OptionalBodyAndParameters, Parameters,
};
use super::fields::{JsonFields, QueryFields};
use super::schema::{Input, ObjectSchema, RequestSchema, parameter};
use super::texts::{PageLimit, Text};
use crate::domain::{LabelCursor, ListCursor, ListOrder};
use crate::http::problem::{self, Problem};

const JSON: &[&str] = &["application/json"];
const MERGE_PATCH: &[&str] = &["application/merge-patch+json", "application/json"];

/// Why any body is refused.
pub(in crate::http) const BODY_PROBLEMS: [Problem; 6] = [
    problem::INCOMPLETE_BODY,
    problem::MALFORMED_CONTENT_ENCODING,
    problem::PAYLOAD_TOO_LARGE,
    problem::UNSUPPORTED_CONTENT_ENCODING,
    problem::TOO_MANY_BODY_BYTES,
    problem::BODY_BYTES_EXHAUSTED,
];
/// Why a JSON body is refused besides.
pub(in crate::http) const JSON_PROBLEMS: [Problem; 3] =
    [problem::MALFORMED_JSON, problem::UNSUPPORTED_MEDIA_TYPE, problem::VALIDATION_FAILED];

fn describe_body<T: JsonFields>(
    schema: &mut RequestSchema,
    media_types: &'static [&'static str],
    is_optional: bool,
) {
    let mut object = ObjectSchema::default();
    T::describe(&mut object);
    schema.body = Some(object.into_value());
    schema.media_types = media_types;
    schema.body_is_optional = is_optional;
    describe_refusals(schema);
}

fn describe_refusals(schema: &mut RequestSchema) {
    schema.problems.extend(BODY_PROBLEMS);
    schema.problems.extend(JSON_PROBLEMS);
}

fn describe_query<T: QueryFields>(schema: &mut RequestSchema) {
    T::describe(&mut schema.query);
    schema.problems.push(problem::VALIDATION_FAILED);
}

impl<T: JsonFields> Input for Body<T> {
    fn describe(schema: &mut RequestSchema) {
        describe_body::<T>(schema, JSON, false);
    }
}

impl<T: JsonFields> Input for OptionalBody<T> {
    fn describe(schema: &mut RequestSchema) {
        describe_body::<T>(schema, JSON, true);
    }
}

impl<T: JsonFields> Input for MergePatch<T> {
    fn describe(schema: &mut RequestSchema) {
        describe_body::<T>(schema, MERGE_PATCH, false);
    }
}

impl<T: QueryFields> Input for List<T> {
    fn describe(schema: &mut RequestSchema) {
        let limit = parameter::<PageLimit>("limit", "Rows per page at most.");
        let order = parameter::<ListOrder>("order", "`desc`, the newest first, or `asc`.");
        let cursor = parameter::<ListCursor>(
            "cursor",
            "`next_cursor` of the previous page, or `prev_cursor` of the next one, of this list with the same order \
             and filters.",
        );
        schema.query.extend([limit, order, cursor]);
        describe_query::<T>(schema);
    }
}

impl<T: QueryFields, L: Text> Input for LabelList<T, L> {
    fn describe(schema: &mut RequestSchema) {
        let limit = parameter::<L>("limit", "Rows per page at most.");
        let cursor = parameter::<ListCursor<LabelCursor>>(
            "cursor",
            "`next_cursor` of the previous page of this list, with the same filters.",
        );
        schema.query.extend([limit, cursor]);
        describe_query::<T>(schema);
    }
}

impl<T: QueryFields> Input for ExportList<T> {
    fn describe(schema: &mut RequestSchema) {
        let order =
            parameter::<ListOrder>("order", "`asc`, the oldest first, unless it is `desc`.");
        let cursor = parameter::<ListCursor>(
            "cursor",
            "The last `next_cursor` of an export that ended early, which has the same order.",
        );
        schema.query.extend([order, cursor]);
        describe_query::<T>(schema);
    }
}

impl<T: QueryFields> Input for Parameters<T> {
    fn describe(schema: &mut RequestSchema) {
        describe_query::<T>(schema);
    }
}

impl<T: JsonFields, Q: QueryFields> Input for BodyAndParameters<T, Q> {
    fn describe(schema: &mut RequestSchema) {
        describe_body::<T>(schema, JSON, false);
        describe_query::<Q>(schema);
    }
}

impl<T: JsonFields, Q: QueryFields> Input for OptionalBodyAndParameters<T, Q> {
    fn describe(schema: &mut RequestSchema) {
        describe_body::<T>(schema, JSON, true);
        describe_query::<Q>(schema);
    }
}

impl<Q: QueryFields> Input for EmptyBodyAndParameters<Q> {
    fn describe(schema: &mut RequestSchema) {
        describe_query::<Q>(schema);
        describe_refusals(schema);
    }
}

impl Input for EmptyBody {
    fn describe(schema: &mut RequestSchema) {
        describe_refusals(schema);
    }
}

impl Input for NoQuery {
    fn describe(schema: &mut RequestSchema) {
        schema.problems.push(problem::VALIDATION_FAILED);
    }
}
