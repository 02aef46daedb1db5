//! What the document promises about itself.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::http::{Access, openapi_document, route_table};

/// The schema of OpenAPI 3.1 documents that their specification gives, <https://spec.openapis.org/oas/3.1/schema/2022-10-07>.
const META_SCHEMA: &str = include_str!("../../../tests/openapi/schema-3.1.json");

/// Every operation with its name.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((format!("{} {path}", method.to_uppercase()), operation));
        }
    }
    all
}

/// A schema of the document by itself, with all it refers to.
fn standalone(schema: &Value, document: &Value) -> Value {
    json!({"allOf": [schema], "components": document["components"]})
}

fn assert_fits(value: &Value, schema: &Value, document: &Value, told: &str) {
    let validator = jsonschema::validator_for(&standalone(schema, document)).unwrap();
    let faults: Vec<String> = validator.iter_errors(value).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{told}: {value}\n{schema}\n{faults:#?}");
}

#[test]
fn document_is_valid_openapi_3_1() {
    let meta: Value = serde_json::from_str(META_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&meta).unwrap();
    let document = openapi_document();
    let faults: Vec<String> = validator
        .iter_errors(&document)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn document_and_router_have_the_same_operations() {
    let document = openapi_document();
    let documented: BTreeSet<String> =
        operations(&document).into_iter().map(|(name, _)| name).collect();
    let routed: BTreeSet<String> =
        route_table().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(documented, routed);
}

#[test]
fn operations_are_complete_and_their_ids_unique() {
    let document = openapi_document();
    let tags: BTreeSet<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut ids = BTreeSet::new();
    for (name, operation) in operations(&document) {
        assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{name}: its id");
        let summary = operation["summary"].as_str().unwrap();
        assert!(!summary.is_empty() && !summary.ends_with('.'), "{name}: {summary}");
        assert!(tags.contains(operation["tags"][0].as_str().unwrap()), "{name}: its tag");
        let placeholders = name.matches('{').count();
        let parameters = operation["parameters"].as_array().unwrap();
        let in_path = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
        assert_eq!(placeholders, in_path, "{name}: parameters of its path");
        assert_bounded(parameters, &name);
        let responses = operation["responses"].as_object().unwrap();
        let is_success = |status: &&String| status.starts_with('2');
        assert!(responses.keys().any(|status| is_success(&status)), "{name}: a success");
        for (status, response) in responses {
            let problem = &response["content"]["application/problem+json"];
            let codes = problem["examples"].as_object();
            let is_error = status.as_str() >= "400";
            assert_eq!(codes.is_some_and(|codes| !codes.is_empty()), is_error, "{name}: {status}");
        }
    }
}

/// Numbers have a range, and words that are few are listed.
fn assert_bounded(parameters: &[Value], name: &str) {
    for parameter in parameters {
        let Some(schema) = parameter.get("schema") else { continue };
        assert!(parameter["description"].is_string(), "{name}: {parameter}");
        if schema["type"] == "integer" {
            assert!(schema["maximum"].is_number(), "{name}: {parameter}");
        }
    }
}

#[test]
fn security_is_that_of_the_table() {
    let document = openapi_document();
    for route in route_table() {
        let method = route.method.as_str().to_lowercase();
        let security = &document["paths"][route.path][method]["security"];
        let expected = match route.access {
            Access::Anyone => json!([]),
            Access::Tenant(scope) => {
                let scopes: Vec<_> = scope.iter().map(|scope| scope.as_str()).collect();
                json!([{"ApiKey": scopes}, {"Bearer": scopes}])
            }
            Access::Operator(scope) => {
                json!([{"ApiKey": [scope.as_str()]}, {"Bearer": [scope.as_str()]}])
            }
        };
        assert_eq!(*security, expected, "{} {}", route.method, route.path);
    }
}

#[test]
fn every_body_has_an_example_that_its_schema_allows() {
    let document = openapi_document();
    let empty = Map::new();
    for (name, operation) in operations(&document) {
        let request = &operation["requestBody"]["content"];
        let responses = operation["responses"].as_object().unwrap();
        let answers = responses.values().map(|response| &response["content"]);
        for content in [request].into_iter().chain(answers) {
            for (media_type, body) in content.as_object().unwrap_or(&empty) {
                let told = format!("{name} {media_type}");
                let examples = body["examples"].as_object().unwrap_or(&empty);
                let code = |(code, _)| &document["components"]["examples"][code]["value"];
                let all: Vec<&Value> =
                    body.get("example").into_iter().chain(examples.iter().map(code)).collect();
                assert!(!all.is_empty(), "{told}: no example");
                for example in all {
                    assert_fits(example, &body["schema"], &document, &told);
                }
            }
        }
    }
}

#[test]
fn references_lead_somewhere_and_every_error_code_is_possible() {
    let document = openapi_document();
    let text = document.to_string();
    let mut used = BTreeSet::new();
    for target in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(target).is_some(), "{target}");
        used.insert(target.to_owned());
    }
    let kinds = ["schemas", "headers", "parameters", "examples"];
    let names = |kind| {
        document["components"][kind].as_object().unwrap().keys().map(move |name| (kind, name))
    };
    for (kind, name) in kinds.into_iter().flat_map(names) {
        // No route answers it: the router does.
        let elsewhere = ["method_not_allowed"];
        let target = format!("/components/{kind}/{name}");
        assert!(used.contains(&target) || elsewhere.contains(&name.as_str()), "{target} is unused");
    }
}

#[test]
fn words_are_those_of_the_api_and_not_of_rust() {
    let text = openapi_document().to_string();
    for word in ["`None`", "`Some`", "[`", "View\"", "_for_"] {
        assert!(!text.contains(word), "{word}");
    }
}

/// Generated clients have these names. `schemars` numbers types that would have the same one.
#[test]
fn schemas_have_names_of_their_own() {
    let document = openapi_document();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}");
    }
}
