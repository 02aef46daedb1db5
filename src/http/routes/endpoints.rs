//! Endpoints: where a tenant's webhooks go.
//!
//! The signing secret is shown when an endpoint is created and on a route of its own, so that lists
//! can be logged and shared.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::super::error::ApiError;
use super::super::extract::{Id, Tenant};
use super::super::fields::{self, Checked, Fields};
use super::super::query::Query;
use super::super::state::AppState;
use super::answer;
use crate::delivery::parse_endpoint_url;
use crate::domain::{
    Endpoint, EndpointChange, EndpointId, EventTypeFilter, EventTypeFilters, Pacing, PacingChange,
    RetrySchedule, SigningSecret, Timestamp, Violation,
};

/// Why an endpoint is disabled that its owner disabled.
const DISABLED_BY_OWNER: &str = "disabled by its owner";

/// An endpoint as its owner sees it.
#[derive(Serialize)]
struct EndpointView<'a> {
    id: EndpointId,
    url: &'a str,
    event_types: &'a EventTypeFilters,
    description: Option<&'a str>,
    enabled: bool,
    disabled_reason: Option<&'a str>,
    #[serde(flatten)]
    pacing: &'a Pacing,
    failing_since: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// A new endpoint, with its secret.
#[derive(Serialize)]
struct NewEndpointView<'a> {
    #[serde(flatten)]
    endpoint: EndpointView<'a>,
    secret: String,
}

#[derive(Serialize)]
struct SecretView {
    id: EndpointId,
    secret: String,
}

/// What creates an endpoint.
struct NewEndpoint {
    url: url::Url,
    event_types: EventTypeFilters,
    description: Option<String>,
    secret: Option<SigningSecret>,
    pacing: Pacing,
}

/// `POST /api/endpoints`: 201 with the endpoint and its secret.
pub(in super::super) async fn create(
    State(app): State<AppState>,
    tenant: Tenant,
    fields: Fields,
) -> Result<Response, ApiError> {
    let new = new_endpoint(fields, app.settings().allow_private_endpoints)?;
    let secret = match new.secret {
        Some(secret) => secret,
        None => SigningSecret::generate().map_err(|error| ApiError::internal(error.to_string()))?,
    };
    let now = app.clock.now();
    let endpoint = Endpoint {
        id: EndpointId::mint(now),
        org_id: tenant.org_id,
        url: new.url,
        event_types: new.event_types,
        description: new.description,
        secret,
        disabled_reason: None,
        created_at: now,
        updated_at: now,
        pacing: new.pacing,
        failing_since: None,
    };
    app.store.insert_endpoint(tenant.org_id, &endpoint).await?;
    let secret = endpoint.secret.reveal();
    let view = NewEndpointView { endpoint: EndpointView::of(&endpoint), secret };
    let location = format!("/api/endpoints/{}", endpoint.id);
    Ok(answer::secret(answer::created(&location, &view)?))
}

/// `GET /api/endpoints`.
pub(in super::super) async fn list(
    State(app): State<AppState>,
    tenant: Tenant,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    let endpoints = app.store.endpoints(tenant.org_id, page).await?;
    let data: Vec<_> = endpoints.data.iter().map(EndpointView::of).collect();
    answer::ok(&crate::domain::Page { data, next_cursor: endpoints.next_cursor })
}

/// `GET /api/endpoints/{id}`.
pub(in super::super) async fn one(
    State(app): State<AppState>,
    tenant: Tenant,
    Id(id): Id<EndpointId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    answer::ok(&EndpointView::of(&endpoint))
}

/// `GET /api/endpoints/{id}/secret`.
pub(in super::super) async fn secret(
    State(app): State<AppState>,
    tenant: Tenant,
    Id(id): Id<EndpointId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let view = SecretView { id, secret: endpoint.secret.reveal() };
    Ok(answer::secret(answer::ok(&view)?))
}

/// `PATCH /api/endpoints/{id}`: only the fields that are sent are changed.
pub(in super::super) async fn change(
    State(app): State<AppState>,
    tenant: Tenant,
    Id(id): Id<EndpointId>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let change = endpoint_change(fields, app.settings().allow_private_endpoints)?;
    let now = app.clock.now();
    let changed = app.store.update_endpoint(tenant.org_id, id, &change, now).await?;
    let changed = changed.ok_or(ApiError::NotFound)?;
    app.delivery.forget(id);
    answer::ok(&EndpointView::of(&changed))
}

/// `DELETE /api/endpoints/{id}`: its pending deliveries are cancelled.
pub(in super::super) async fn remove(
    State(app): State<AppState>,
    tenant: Tenant,
    Id(id): Id<EndpointId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let removed = app.store.delete_endpoint(tenant.org_id, id, app.clock.now()).await?;
    if !removed {
        return Err(ApiError::NotFound);
    }
    app.delivery.forget(id);
    Ok(answer::no_content())
}

fn new_endpoint(mut fields: Fields, allow_private: bool) -> Result<NewEndpoint, ApiError> {
    let url = fields.required("url", |value| url(value, allow_private));
    let event_types = fields.nullable("event_types", event_types).flatten().unwrap_or_default();
    let description = fields.nullable("description", description).flatten();
    let secret = fields.nullable("secret", signing_secret).flatten();
    let pacing = pacing_change(&mut fields);
    let pacing = Pacing {
        max_concurrency: pacing.max_concurrency.flatten(),
        rate_limit_per_second: pacing.rate_limit_per_second.flatten(),
        retry_schedule: pacing.retry_schedule.flatten(),
        ordered: pacing.ordered.unwrap_or_default(),
    };
    fields.finish(url.map(|url| NewEndpoint { url, event_types, description, secret, pacing }))
}

fn endpoint_change(mut fields: Fields, allow_private: bool) -> Result<EndpointChange, ApiError> {
    let enabled = fields.optional("enabled", |value| fields::boolean("enabled", value));
    let disabled_reason = |enabled| if enabled { None } else { Some(DISABLED_BY_OWNER.to_owned()) };
    let change = EndpointChange {
        url: fields.optional("url", |value| url(value, allow_private)),
        event_types: fields.optional("event_types", event_types),
        description: fields.nullable("description", description),
        disabled_reason: enabled.map(disabled_reason),
        pacing: pacing_change(&mut fields),
    };
    fields.finish(Some(change))
}

fn pacing_change(fields: &mut Fields) -> PacingChange {
    PacingChange {
        max_concurrency: fields.nullable("max_concurrency", |value| {
            fields::number("max_concurrency", value, Pacing::check_max_concurrency)
        }),
        rate_limit_per_second: fields.nullable("rate_limit_per_second", |value| {
            fields::number("rate_limit_per_second", value, Pacing::check_rate_limit)
        }),
        retry_schedule: fields.nullable("retry_schedule", retry_schedule),
        ordered: fields.optional("ordered", |value| fields::boolean("ordered", value)),
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

fn url(value: &Value, allow_private: bool) -> Checked<url::Url> {
    fields::string("url", value, |text| parse_endpoint_url(text, allow_private))
}

fn description(value: &Value) -> Checked<String> {
    fields::string("description", value, |text| {
        Endpoint::check_description(text).map(|()| text.to_owned())
    })
}

fn signing_secret(value: &Value) -> Checked<SigningSecret> {
    fields::string("secret", value, |text| {
        let rule = "must be whsec_ followed by the base64 of 24 to 64 bytes";
        text.parse().map_err(|_| Violation::new("secret", "format", rule))
    })
}

/// Names every filter that is malformed, not only the first.
fn event_types(value: &Value) -> Checked<EventTypeFilters> {
    let Value::Array(items) = value else {
        return Err(vec![Violation::new("event_types", "type", "must be an array of strings")]);
    };
    let texts: Vec<&str> = items.iter().map(|item| item.as_str().unwrap_or_default()).collect();
    EventTypeFilters::parse(&texts).map_err(|first| {
        if texts.len() > Endpoint::EVENT_TYPES_MAX {
            return vec![first];
        }
        let malformed = |text: &&str| text.parse::<EventTypeFilter>().is_err();
        let at = |(index, _)| Violation { field: format!("event_types[{index}]"), ..first.clone() };
        texts.iter().enumerate().filter(|(_, text)| malformed(text)).map(at).collect()
    })
}

impl<'a> EndpointView<'a> {
    fn of(endpoint: &'a Endpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url.as_str(),
            event_types: &endpoint.event_types,
            description: endpoint.description.as_deref(),
            enabled: endpoint.disabled_reason.is_none(),
            disabled_reason: endpoint.disabled_reason.as_deref(),
            pacing: &endpoint.pacing,
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
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
