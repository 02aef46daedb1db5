//! What operations answer when they succeed, told by the types that their handlers return.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use axum::handler::Handler;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Value, json};

use crate::http::error::ApiError;
use crate::http::state::AppState;

/// What an operation answers, by status.
#[derive(Debug)]
pub struct Answers<'a> {
    schemas: &'a mut SchemaGenerator,
    by_status: BTreeMap<u16, DescribedAnswer>,
}

/// One answer of an operation.
#[derive(Debug, Default)]
pub(super) struct DescribedAnswer {
    /// Its media types, each with a schema; none without a body.
    pub(super) bodies: Vec<(&'static str, Value)>,
    /// Header fields that it has beside those of every answer.
    pub(super) headers: Vec<&'static str>,
}

/// A type that handlers return.
pub(in crate::http) trait DescribesAnswers {
    /// Adds what it answers.
    fn describe(answers: &mut Answers<'_>);
}

/// A handler of which is known what it returns.
pub(in crate::http) trait Operates<T>: Handler<T, AppState> {
    type Output: DescribesAnswers;
}

/// Newline-delimited JSON, one `T` per line.
pub(in crate::http) struct JsonLines<T>(PhantomData<T>);

/// Server-sent events whose data is a `T`.
pub(in crate::http) struct EventStream<T>(PhantomData<T>);

/// Plain text.
pub(in crate::http) enum PlainText {}

/// A page of HTML.
pub(in crate::http) enum HtmlPage {}

/// A script or style of a page.
pub(in crate::http) enum PageFile {}

/// `T` with an entity tag, or 304 for callers that have it.
pub(in crate::http) struct Cacheable<T>(PhantomData<T>);

impl<'a> Answers<'a> {
    pub(super) fn new(schemas: &'a mut SchemaGenerator) -> Self {
        Self { schemas, by_status: BTreeMap::new() }
    }

    pub(super) fn into_map(self) -> BTreeMap<u16, DescribedAnswer> {
        self.by_status
    }

    /// Adds a status with a JSON body.
    pub(in crate::http) fn json<T: JsonSchema>(&mut self, status: u16) {
        let schema = self.schemas.subschema_for::<T>().to_value();
        self.body(status, "application/json", schema);
    }

    /// Adds a status without a body.
    pub(in crate::http) fn empty(&mut self, status: u16) {
        self.by_status.entry(status).or_default();
    }

    /// Adds header fields to every status so far.
    pub(in crate::http) fn headers(&mut self, names: &[&'static str]) {
        for answer in self.by_status.values_mut() {
            answer.headers.extend(names);
        }
    }

    fn body(&mut self, status: u16, media_type: &'static str, schema: Value) {
        self.by_status.entry(status).or_default().bodies.push((media_type, schema));
    }
}

/// Errors are described by what can fail.
impl DescribesAnswers for ApiError {
    fn describe(_: &mut Answers<'_>) {}
}

impl<T: DescribesAnswers, E: DescribesAnswers> DescribesAnswers for Result<T, E> {
    fn describe(answers: &mut Answers<'_>) {
        T::describe(answers);
        E::describe(answers);
    }
}

impl<T: JsonSchema> DescribesAnswers for JsonLines<T> {
    fn describe(answers: &mut Answers<'_>) {
        let row = answers.schemas.subschema_for::<T>().to_value();
        let doc = "One JSON text per line: a row each, and at the end `{\"next_cursor\": …}`.";
        let schema = json!({"type": "string", "description": doc, "contentSchema": row});
        answers.body(200, "application/x-ndjson", schema);
    }
}

impl<T: JsonSchema> DescribesAnswers for EventStream<T> {
    fn describe(answers: &mut Answers<'_>) {
        let data = answers.schemas.subschema_for::<T>().to_value();
        let doc = "Server-sent events. The data of each is one JSON text.";
        let schema = json!({"type": "string", "description": doc, "contentSchema": data});
        answers.body(200, "text/event-stream", schema);
    }
}

impl DescribesAnswers for PlainText {
    fn describe(answers: &mut Answers<'_>) {
        answers.body(200, "text/plain", json!({"type": "string"}));
    }
}

impl DescribesAnswers for HtmlPage {
    fn describe(answers: &mut Answers<'_>) {
        answers.body(200, "text/html", json!({"type": "string"}));
    }
}

impl DescribesAnswers for PageFile {
    fn describe(answers: &mut Answers<'_>) {
        answers.body(200, "text/javascript", json!({"type": "string"}));
        answers.body(200, "text/css", json!({"type": "string"}));
    }
}

impl<T: DescribesAnswers> DescribesAnswers for Cacheable<T> {
    fn describe(answers: &mut Answers<'_>) {
        T::describe(answers);
        answers.empty(304);
        answers.headers(&["etag", "cache-control"]);
    }
}

macro_rules! operates {
    ($($argument:ident)*) => {
        impl<F, M, R, A, $($argument),*> Operates<(M, $($argument,)*)> for F
        where
            F: FnOnce($($argument),*) -> A + Handler<(M, $($argument,)*), AppState>,
            A: Future<Output = R>,
            R: DescribesAnswers,
        {
            type Output = R;
        }
    };
}

operates!(T1);
operates!(T1 T2);
operates!(T1 T2 T3);
operates!(T1 T2 T3 T4);
operates!(T1 T2 T3 T4 T5);
operates!(T1 T2 T3 T4 T5 T6);

/// A handler without arguments.
impl<F, R, A> Operates<((),)> for F
where
    F: FnOnce() -> A + Handler<((),), AppState>,
    A: Future<Output = R>,
    R: DescribesAnswers,
{
    type Output = R;
}
