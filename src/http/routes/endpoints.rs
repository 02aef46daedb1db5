//! Endpoints: where a tenant's webhooks go.
//!
//! The signing secret is shown when an endpoint is created and on a route of its own
//! (`endpoint_secrets`), its custom header fields in answers about one endpoint only, so that lists
//! can be logged and shared.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::endpoint_secrets;
use crate::delivery::SsrfGuard;
use crate::domain::{
    CustomHeaders, DeliveryPolicy, DeliveryPolicyChange, Endpoint, EndpointChange, EndpointId,
    EventTypeFilter, EventTypeFilters, NewEndpoint, PublicKey, RetrySchedule, Secrets,
    SignatureScheme, SigningSecret, Timestamp, Violation,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped};
use crate::http::json_object::{self, Checked, EmptyBody, JsonObject};
use crate::http::query::Query;
use crate::http::respond;
use crate::http::state::AppState;

/// Why an endpoint is disabled that its owner disabled.
const DISABLED_BY_OWNER: &str = "disabled by its owner";

/// An endpoint as its owner sees it.
#[derive(Serialize)]
struct EndpointView<'a> {
    id: EndpointId,
    url: &'a str,
    event_types: &'a EventTypeFilters,
    description: Option<&'a str>,
    /// `null` where this server cannot read the endpoint's secret.
    signature: Option<SignatureScheme>,
    /// What receivers verify with; `null` for HMAC.
    public_key: Option<PublicKey>,
    enabled: bool,
    disabled_reason: Option<&'a str>,
    #[serde(flatten)]
    policy: &'a DeliveryPolicy,
    failing_since: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// One endpoint, with what lists leave out.
#[derive(Serialize)]
struct EndpointDetail<'a> {
    #[serde(flatten)]
    endpoint: EndpointView<'a>,
    /// `null` where this server cannot read them.
    headers: Option<BTreeMap<&'a str, &'a str>>,
}

/// A new endpoint, with the secret that its receiver needs.
#[derive(Serialize)]
struct NewEndpointView<'a> {
    #[serde(flatten)]
    endpoint: EndpointDetail<'a>,
    /// Absent for Ed25519, where nobody else needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Serialize)]
struct Cancelled {
    cancelled: u64,
}

/// `POST /api/endpoints`: 201 with the endpoint and its secret.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    fields: JsonObject,
) -> Result<Response, ApiError> {
    let new = new_endpoint(fields, &app.settings().guard)?;
    let random = |error: getrandom::Error| ApiError::internal(error.to_string());
    let endpoint = new.into_endpoint(tenant.org_id, app.clock.now()).map_err(random)?;
    let secret = endpoint.secrets.as_ref().ok().map(Secrets::current);
    let shown = secret.and_then(endpoint_secrets::for_receivers);
    let added = app.store.insert_endpoint(tenant.org_id, &endpoint, &tenant.actor()).await?;
    added.map_err(|refusal| ApiError::Add("endpoints", refusal))?;
    let view = NewEndpointView { endpoint: EndpointDetail::of(&endpoint), secret: shown };
    let location = format!("/api/endpoints/{}", endpoint.id);
    respond::created(&location, &view)
}

/// `GET /api/endpoints`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    let endpoints = app.store.endpoints(tenant.org_id, page).await?;
    let data: Vec<_> = endpoints.data.iter().map(EndpointView::of).collect();
    respond::ok(&crate::domain::Page { data, next_cursor: endpoints.next_cursor })
}

/// `GET /api/endpoints/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    respond::ok(&EndpointDetail::of(&endpoint))
}

/// `PATCH /api/endpoints/{id}`: only the fields that are sent are changed.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    fields: JsonObject,
) -> Result<Response, ApiError> {
    let change = endpoint_change(fields, &app.settings().guard)?;
    let now = app.clock.now();
    let changed =
        app.store.update_endpoint(tenant.org_id, id, &change, &tenant.actor(), now).await?;
    let changed = changed.ok_or(ApiError::NotFound)?;
    app.delivery.evict_endpoint(id);
    respond::ok(&EndpointDetail::of(&changed))
}

/// `DELETE /api/endpoints/{id}`: its pending deliveries are cancelled.
pub(in crate::http) async fn remove(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let removed =
        app.store.delete_endpoint(tenant.org_id, id, &tenant.actor(), app.clock.now()).await?;
    if !removed {
        return Err(ApiError::NotFound);
    }
    app.delivery.evict_endpoint(id);
    Ok(respond::no_content())
}

/// `POST /api/endpoints/{id}/cancel-pending`: 200 with the number of deliveries that were cancelled.
///
/// Those planned while this runs stay. It takes bounded steps, so a caller whose time runs out asks
/// again and it goes on; each step writes its own line in the audit log, together with what it did.
pub(in crate::http) async fn cancel_pending(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let (by, now) = (tenant.actor(), app.clock.now());
    let mut cancelled = 0;
    loop {
        let step = app.store.cancel_pending(tenant.org_id, id, now, &by, now).await?;
        cancelled += step;
        if step == 0 {
            app.delivery.evict_endpoint(id);
            return respond::ok(&Cancelled { cancelled });
        }
    }
}

fn new_endpoint(mut fields: JsonObject, guard: &SsrfGuard) -> Result<NewEndpoint, ApiError> {
    let url = fields.required("url", |value| url(value, guard));
    let event_types = fields.nullable("event_types", event_types).flatten().unwrap_or_default();
    let description = fields.nullable("description", description).flatten();
    let secret = endpoint_secrets::choice(&mut fields);
    let headers = fields.nullable("headers", headers).flatten().unwrap_or_default();
    let policy = pacing_change(&mut fields);
    let policy = DeliveryPolicy {
        max_concurrency: policy.max_concurrency.flatten(),
        rate_limit_per_second: policy.rate_limit_per_second.flatten(),
        retry_schedule: policy.retry_schedule.flatten(),
        ordered: policy.ordered.unwrap_or_default(),
    };
    let new = |url| NewEndpoint { url, event_types, description, policy, secret, headers };
    fields.finish(url.map(new))
}

fn endpoint_change(mut fields: JsonObject, guard: &SsrfGuard) -> Result<EndpointChange, ApiError> {
    let enabled = fields.optional("enabled", |value| json_object::boolean("enabled", value));
    let disabled_reason = |enabled| if enabled { None } else { Some(DISABLED_BY_OWNER.to_owned()) };
    let change = EndpointChange {
        url: fields.optional("url", |value| url(value, guard)),
        event_types: fields.optional("event_types", event_types),
        description: fields.nullable("description", description),
        headers: fields.nullable("headers", headers).map(Option::unwrap_or_default),
        disabled_reason: enabled.map(disabled_reason),
        policy: pacing_change(&mut fields),
    };
    fields.finish(Some(change))
}

fn pacing_change(fields: &mut JsonObject) -> DeliveryPolicyChange {
    DeliveryPolicyChange {
        max_concurrency: fields.nullable("max_concurrency", |value| {
            json_object::number("max_concurrency", value, &DeliveryPolicy::CONCURRENCY)
        }),
        rate_limit_per_second: fields.nullable("rate_limit_per_second", |value| {
            json_object::number("rate_limit_per_second", value, &DeliveryPolicy::RATE_LIMIT)
        }),
        retry_schedule: fields.nullable("retry_schedule", retry_schedule),
        ordered: fields.optional("ordered", |value| json_object::boolean("ordered", value)),
    }
}

fn retry_schedule(value: &Value) -> Checked<RetrySchedule> {
    let Value::Array(items) = value else {
        let rule = "must be an array of durations such as [\"5s\", \"5m\"]";
        return Err(vec![Violation::new("retry_schedule", "type", rule)]);
    };
    let waits: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or_default()).collect();
    RetrySchedule::parse_waits(&waits)
}

fn url(value: &Value, guard: &SsrfGuard) -> Checked<url::Url> {
    json_object::string("url", value, |text| guard.parse_url(text))
}

fn description(value: &Value) -> Checked<String> {
    json_object::string("description", value, |text| {
        Endpoint::check_description(text).map(|()| text.to_owned())
    })
}

/// Custom header fields: names with values, `null` for none.
fn headers(value: &Value) -> Checked<CustomHeaders> {
    let rule = "must be an object of strings, as in {\"x-a\": \"b\"}";
    let wrong = || vec![Violation::new("headers", "type", rule)];
    let object = value.as_object().ok_or_else(wrong)?;
    let fields = object.iter().map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    CustomHeaders::parse(fields.collect::<Option<Vec<_>>>().ok_or_else(wrong)?)
}

/// Names every filter that is malformed, not only the first.
fn event_types(value: &Value) -> Checked<EventTypeFilters> {
    let Value::Array(items) = value else {
        return Err(vec![Violation::new("event_types", "type", "must be an array of strings")]);
    };
    let texts: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or_default()).collect();
    EventTypeFilters::parse(&texts).map_err(|first| {
        if texts.len() > EventTypeFilters::FILTERS_MAX {
            return vec![first];
        }
        let malformed = |text: &&str| text.parse::<EventTypeFilter>().is_err();
        let at = |(index, _)| Violation { field: format!("event_types[{index}]"), ..first.clone() };
        texts.iter().enumerate().filter(|(_, text)| malformed(text)).map(at).collect()
    })
}

impl<'a> EndpointView<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        let secret = endpoint.secrets.as_ref().ok().map(Secrets::current);
        Self {
            id: endpoint.id,
            url: endpoint.url.as_str(),
            event_types: &endpoint.event_types,
            description: endpoint.description.as_deref(),
            signature: secret.map(SigningSecret::scheme),
            public_key: secret.and_then(SigningSecret::public_key),
            enabled: endpoint.disabled_reason.is_none(),
            disabled_reason: endpoint.disabled_reason.as_deref(),
            policy: &endpoint.policy,
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

impl<'a> EndpointDetail<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        let headers = endpoint.headers.as_ref().ok().map(|headers| headers.iter().collect());
        Self { endpoint: EndpointView::of(endpoint), headers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_malformed_filter_is_named() {
        let faults = event_types(&json!(["ok", "not ok", 7, "user.*"])).unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["event_types[1]", "event_types[2]"]);
        let many = vec!["a b"; 101];
        assert_eq!(event_types(&json!(many)).unwrap_err()[0].code, "length");
    }
}
