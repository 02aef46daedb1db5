//! The document itself.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use strum::VariantArray;

use super::answers::{Answers, DescribedAnswer};
use super::components::{self, reference};
use super::operation::Tag;
use super::{examples, problems, schemas, webhooks};
use crate::domain::Scope;
use crate::http::paths;
use crate::http::problem::Problem;
use crate::http::respond::ProblemBody;
use crate::http::route::{Access, Route};

/// What stands above all operations.
const ABOUT: &str = "Post events, and have them delivered as signed webhooks.\n\n\
    Every request carries an API key in `X-API-Key`, or as `Authorization: Bearer`. Ids are UUIDs, timestamps RFC \
    3339 in UTC with up to six fractional digits. Unknown fields and query parameters are errors. Where a route takes \
    `GET`, it takes `HEAD`, too.\n\n\
    Errors are `application/problem+json` with a stable `code`; the examples of each status list the codes that an \
    operation may answer. Lengths of texts are counted in bytes of UTF-8.\n\n\
    Lists answer `{\"data\": […], \"next_cursor\": …}`; `next_cursor` is `null` on the last page. Those \
    in the order of time have `prev_cursor`, which is `null` on the first page. A cursor belongs to its list and filters.";

/// The OpenAPI document of these routes.
pub(in crate::http) fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .for_serialize();
    let mut generator = settings.into_generator();
    generator.subschema_for::<ProblemBody<'static>>();
    let webhooks = webhooks::register(&mut generator);
    let mut operations = Vec::new();
    for route in routes {
        let mut answers = Answers::new(&mut generator);
        (route.answers)(&mut answers);
        operations.push((route, answers.into_map()));
    }
    let mut all: Map<String, Value> = generator.take_definitions(true);
    for (route, _) in &operations {
        for (name, schema) in &route.request.components {
            all.insert((*name).to_owned(), schema.clone());
        }
        if let Some(body) = route.request.body.as_ref().filter(|body| !is_reference(body)) {
            all.insert(request_name(route), body.clone());
        }
    }
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (route, answers) in operations {
        let method = route.method.as_str().to_lowercase();
        paths.entry(route.path).or_default().insert(method, operation(route, answers, &all));
    }
    let tag = |tag: &Tag| json!({"name": tag.name(), "description": tag.description()});
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hookgate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Event ingest and webhook delivery",
            "description": ABOUT,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server that this document came from"}],
        "tags": Tag::VARIANTS.iter().map(tag).collect::<Vec<_>>(),
        "paths": paths,
        "webhooks": webhooks::finish(webhooks, &all),
        "components": {
            "securitySchemes": components::security_schemes(),
            "schemas": all,
            "headers": components::headers(),
            "parameters": parameters_of_all(),
            "examples": components::problem_examples(),
        },
    });
    schemas::finished(document)
}

/// Parameters of operations, and of webhooks.
fn parameters_of_all() -> Map<String, Value> {
    let mut all = components::parameters();
    all.extend(webhooks::parameters());
    all
}

/// Whether a schema is another one by its name.
fn is_reference(schema: &Value) -> bool {
    schema.get("$ref").is_some()
}

/// The name of the schema of a route's request body.
fn request_name(route: &Route) -> String {
    let id = route.operation.id;
    let (first, rest) = id.split_at_checked(1).unwrap_or_default();
    format!("{}{rest}Request", first.to_uppercase())
}

fn operation(
    route: &Route,
    answers: BTreeMap<u16, DescribedAnswer>,
    schemas: &Map<String, Value>,
) -> Value {
    let about = route.operation;
    let mut operation = json!({
        "operationId": about.id,
        "summary": about.summary(),
        "tags": [about.tag.name()],
        "security": security(route.access),
        "parameters": parameters(route),
        "responses": responses(route, answers, schemas),
    });
    let description = about.description();
    if !description.is_empty() {
        operation["description"] = description.into();
    }
    if let Some(body) = request_body(route, schemas) {
        operation["requestBody"] = body;
    }
    operation
}

/// Either scheme; the roles of a key are its scopes.
fn security(access: Access) -> Value {
    let scopes: Vec<&str> = match access {
        Access::Anyone => return json!([]),
        Access::Tenant(scope) => scope.map(Scope::as_str).into_iter().collect(),
        Access::Operator(scope) => vec![scope.as_str()],
    };
    json!([{"ApiKey": scopes}, {"Bearer": scopes}])
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some(schema) = &route.request.path {
        let name = route.path.split(['{', '}']).nth(1).unwrap_or_default();
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": schema,
            "description": description.unwrap_or_else(|| "The account.".into()),
        }));
    }
    parameters.extend(route.request.query.iter().cloned());
    parameters.extend(route.request.headers.iter().cloned());
    if problems::is_named(route) {
        parameters.push(reference("parameters", "idempotency-key"));
    } else if route.method == Method::POST && paths::is_single_event(route.path) {
        parameters.push(reference("parameters", "event-idempotency-key"));
    }
    parameters.push(reference("parameters", "x-trace-id"));
    parameters.push(reference("parameters", "traceparent"));
    parameters
}

fn request_body(route: &Route, schemas: &Map<String, Value>) -> Option<Value> {
    let request = &route.request;
    let given = route.operation.example;
    let given = given.map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
    let mut content = Map::new();
    if let Some(body) = &request.body {
        let example = given.clone().unwrap_or_else(|| examples::required_only(body, schemas));
        for media_type in request.media_types {
            let named = || reference("schemas", &request_name(route));
            let schema = if is_reference(body) { body.clone() } else { named() };
            content.insert((*media_type).to_owned(), json!({"schema": schema, "example": example}));
        }
    }
    for (media_type, schema) in &request.other_bodies {
        let mut entry = json!({ "schema": schema });
        match (&given, *media_type) {
            _ if media_type.contains("cloudevents") => {
                entry["example"] = examples::example(schema, schemas);
            }
            (Some(example), "application/json") => entry["example"] = example.clone(),
            (Some(Value::Array(rows)), _) => {
                let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
                entry["example"] = lines.join("\n").into();
            }
            _ => entry["example"] = "any bytes".into(),
        }
        content.insert((*media_type).to_owned(), entry);
    }
    let required = !request.body_is_optional;
    (!content.is_empty()).then(|| json!({"required": required, "content": content}))
}

fn responses(
    route: &Route,
    answers: BTreeMap<u16, DescribedAnswer>,
    schemas: &Map<String, Value>,
) -> Map<String, Value> {
    let mut responses = BTreeMap::new();
    let is_named = problems::is_named(route);
    for (status, DescribedAnswer { bodies, mut headers }) in answers {
        if is_named {
            headers.push("idempotent-replayed");
        }
        let mut response = json!({"description": reason(status), "headers": links(&headers)});
        for (media_type, schema) in bodies {
            let example = examples::example(&schema, schemas);
            response["content"][media_type] = json!({"schema": schema, "example": example});
        }
        responses.insert(status, response);
    }
    for (status, codes) in problems::of(route) {
        let failed = failure(status, &codes);
        match responses.get_mut(&status) {
            None => drop(responses.insert(status, failed)),
            // A probe that fails says more than an error does.
            Some(answer) => {
                for (media_type, body) in failed["content"].as_object().into_iter().flatten() {
                    answer["content"][media_type] = body.clone();
                }
            }
        }
    }
    responses.into_iter().map(|(status, response)| (status.to_string(), response)).collect()
}

/// An error status, with an example of each code that it may have.
fn failure(status: u16, codes: &BTreeMap<&'static str, Problem>) -> Value {
    let headers: &[&str] = match status {
        401 => &["www-authenticate"],
        415 => &["accept-encoding"],
        429 => &["retry-after", "ratelimit", "ratelimit-policy"],
        409 | 503 => &["retry-after"],
        _ => &[],
    };
    let titles: Vec<&str> = codes.values().map(|problem| problem.title).collect();
    let examples: Map<String, Value> =
        codes.keys().map(|code| ((*code).to_owned(), reference("examples", code))).collect();
    json!({
        "description": titles.join("; "),
        "headers": links(headers),
        "content": {"application/problem+json": {
            "schema": reference("schemas", "Problem"),
            "examples": examples,
        }},
    })
}

/// References to header fields, and to the one that every answer has.
fn links(names: &[&str]) -> Map<String, Value> {
    let names = names.iter().chain(&["x-trace-id"]);
    names.map(|name| ((*name).to_owned(), reference("headers", name))).collect()
}

fn reason(status: u16) -> &'static str {
    let status = StatusCode::from_u16(status).ok();
    status.and_then(|status| status.canonical_reason()).unwrap_or("DescribedAnswer")
}
