//! Holds every answer and webhook to the OpenAPI document: a status, media type, field, error code or header field that an operation
//! does not have in it fails the test that met it.
//!
//! The document is open to fields that later versions add; here it is closed.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use hookgate::http::openapi_document;
use jsonschema::Validator;
use reqwest::Method;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::answer::Answer;

static API: LazyLock<Api> = LazyLock::new(|| {
    let mut document = openapi_document();
    close(&mut document);
    Api { document, validators: Mutex::default() }
});

struct Api {
    document: Value,
    /// By the JSON Pointer of a schema.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// Checks the answer to a request.
pub(crate) fn check(method: &Method, path: &str, answer: &Answer) {
    // What was refused before it was a request has no trace.
    if !answer.headers.contains_key("x-trace-id") || method == Method::OPTIONS {
        return;
    }
    let documented = if method == Method::HEAD { Method::GET } else { method.clone() };
    let told = format!("{method} {path} {}", answer.status);
    let Some(pointer) = API.operation(&documented, path) else {
        let is_refusal = matches!(answer.status.as_u16(), 404 | 405);
        assert!(is_refusal, "{told}: the document has no such operation");
        return;
    };
    let status = answer.status.as_u16().to_string();
    let pointer = format!("{pointer}/responses/{status}");
    let Some(response) = API.document.pointer(&pointer) else {
        panic!("{told}: the document has no such status: {}", answer.text);
    };
    check_headers(response, answer, &told);
    if answer.text.is_empty() {
        let is_event_stream =
            answer.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let may = method == Method::HEAD || response.get("content").is_none() || is_event_stream;
        assert!(may || matches!(answer.status.as_u16(), 204 | 304), "{told}: an empty body");
        return;
    }
    let media_type = answer.header("content-type").split(';').next().unwrap().trim();
    let body = response["content"].get(media_type);
    let body = body.unwrap_or_else(|| panic!("{told}: the document has no {media_type}"));
    let pointer = format!("{pointer}/content/{}/schema", media_type.replace('/', "~1"));
    match media_type {
        "application/json" => API.check_json(&pointer, &answer.text, &told),
        "application/problem+json" => {
            API.check_json(&pointer, &answer.text, &told);
            let problem: Value = serde_json::from_str(&answer.text).unwrap();
            let code = problem["code"].as_str().unwrap();
            assert!(
                body["examples"].get(code).is_some(),
                "{told}: the document has no code {code}"
            );
        }
        "application/x-ndjson" => {
            for line in answer.text.lines() {
                API.check_json(&format!("{pointer}/contentSchema"), line, &told);
            }
        }
        _ => {}
    }
}

/// Checks the body of a webhook.
pub(crate) fn check_webhook(media_type: &str, body: &[u8]) {
    let text = std::str::from_utf8(body).unwrap();
    let name = serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|body| body["type"].as_str().map(str::to_owned))
        .filter(|kind| kind.starts_with("hookgate."));
    let name = name.unwrap_or_else(|| "event".to_owned());
    let told = format!("webhook {name} as {media_type}");
    let content = format!("/webhooks/{name}/post/requestBody/content");
    let documented = API.document.pointer(&content).and_then(|content| content.get(media_type));
    assert!(documented.is_some(), "{told}: the document has no such webhook");
    let pointer = format!("{content}/{}/schema", media_type.replace('/', "~1"));
    API.check_json(&pointer, text, &told);
}

/// Header fields that the document knows are documented wherever they are.
fn check_headers(response: &Value, answer: &Answer, told: &str) {
    let known = API.document["components"]["headers"].as_object().unwrap();
    let everywhere = ["cache-control"];
    for name in known.keys().filter(|name| !everywhere.contains(&name.as_str())) {
        let is_documented = response["headers"].get(name).is_some();
        assert!(
            is_documented || !answer.headers.contains_key(name),
            "{told}: the document has no header {name}: {}",
            answer.text
        );
    }
}

impl Api {
    /// The JSON Pointer of the operation that a request asks for.
    fn operation(&self, method: &Method, path: &str) -> Option<String> {
        let method = method.as_str().to_lowercase();
        let paths = self.document["paths"].as_object().unwrap();
        let fits = |template: &&String| matches(template, path);
        // A path in words goes before one with a parameter, as in the router.
        let template =
            paths.keys().filter(fits).min_by_key(|template| template.matches('{').count())?;
        paths[template].get(&method)?;
        Some(format!("/paths/{}/{method}", template.replace('/', "~1")))
    }

    fn check_json(&self, pointer: &str, text: &str, told: &str) {
        let validator = {
            let mut validators = self.validators.lock().unwrap_or_else(PoisonError::into_inner);
            let made =
                validators.entry(pointer.to_owned()).or_insert_with(|| self.validator(pointer));
            Arc::clone(made)
        };
        // Payloads may hold numbers and surrogates that are valid JSON and no `Value`.
        let Ok(value) = serde_json::from_str(text) else {
            let raw: Result<&RawValue, _> = serde_json::from_str(text);
            assert!(raw.is_ok(), "{told}: {text}");
            return;
        };
        let faults: Vec<String> = validator
            .iter_errors(&value)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        assert!(faults.is_empty(), "{told} is not as the document says: {faults:#?}\n{text}");
    }

    fn validator(&self, pointer: &str) -> Arc<Validator> {
        let schema = self.document.pointer(pointer).unwrap();
        let whole = json!({"allOf": [schema], "components": self.document["components"]});
        let options = jsonschema::options().should_validate_formats(true);
        Arc::new(options.build(&whole).unwrap())
    }
}

/// Whether a path is one of a template such as `/api/events/{id}`.
fn matches(template: &str, path: &str) -> bool {
    let (template, path): (Vec<&str>, Vec<&str>) =
        (template.split('/').collect(), path.split('/').collect());
    let fits = |(template, part): (&&str, &&str)| {
        template.starts_with('{') && !part.is_empty() || template == part
    };
    template.len() == path.len() && template.iter().zip(&path).all(fits)
}

/// Forbids fields that a schema does not name.
fn close(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object)
                && !fields.contains_key("additionalProperties")
            {
                fields.insert("additionalProperties".to_owned(), false.into());
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
