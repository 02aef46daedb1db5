//! Endpoints: where a tenant's webhooks go.

use axum::extract::State;

use super::endpoint_secrets::SecretFields;
use crate::api::endpoints;
use crate::api::views::{CancelledDeliveries, EndpointDetail, EndpointView, NewEndpointView};
use crate::domain::{
    Cursor, CustomHeaders, DeliveryPolicy, DeliveryPolicyChange, EndpointChange, EndpointConfig,
    EndpointId, EndpointKind, EventTypeFilters, InboxSettings, InboxSettingsChange, NewEndpoint,
    RetrySchedule, Scope, Scopes, Violation, WebhookFormat,
};
use crate::http::entity_tag::{EntityTag, IfMatch};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EndpointsRead, Id, Scoped, Tenant};
use crate::http::request::json_object::JsonObject;
use crate::http::request::rules::Rules;
use crate::http::request::schema::ObjectSchema;
use crate::http::request::{
    Body, Description, EmptyBody, EndpointUrl, JsonFields, Label, List, ListPage, MergePatch,
    NoQuery, Positioned, Whole, json_fields, query_fields,
};
use crate::http::respond::{Created, Json, NoContent, Secret};
use crate::http::state::AppState;

/// Reason recorded when the owner disables an endpoint.
pub(in crate::http) const DISABLED_BY_OWNER: &str = "disabled by its owner";

type Concurrency =
    Whole<{ *DeliveryPolicy::CONCURRENCY.start() }, { *DeliveryPolicy::CONCURRENCY.end() }>;
type Visibility = Whole<
    { *InboxSettings::VISIBILITY_SECONDS.start() },
    { *InboxSettings::VISIBILITY_SECONDS.end() },
>;
type MaxReceives =
    Whole<{ *InboxSettings::MAX_RECEIVES.start() }, { *InboxSettings::MAX_RECEIVES.end() }>;
type RateLimit =
    Whole<{ *DeliveryPolicy::RATE_LIMIT.start() }, { *DeliveryPolicy::RATE_LIMIT.end() }>;

json_fields! {
    /// A new endpoint.
    pub(in crate::http) struct EndpointBody check(check_kind) {
        /// How events reach it.
        group target: EndpointTarget,
        /// Which events it receives; none means all events.
        nullable event_types: EventTypeFilters,
        /// A note for people.
        nullable description: Description,
        /// How its webhooks are signed.
        group secret: SecretFields,
        /// Custom headers sent with its webhooks.
        nullable headers: CustomHeaders,
        /// The body of its webhooks: `standard` if unset, or `cloudevents`.
        nullable format: WebhookFormat,
        /// How its deliveries are made.
        group policy: PolicyFields,
        /// How an inbox gives events out.
        group inbox: InboxFields,
        /// The only account whose events it receives; unset means every event. It cannot be changed later.
        nullable account_id: Label,
    }
}

query_fields! {
    /// Which endpoints are listed.
    pub(in crate::http) struct EndpointQuery {
        /// Those that receive the events of this account alone.
        account_id: Label,
    }
}

/// How events reach a new endpoint.
#[derive(Debug)]
pub(in crate::http) struct EndpointTarget {
    kind: EndpointKind,
    url: Option<EndpointUrl>,
}

impl Positioned for EndpointView {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}

impl JsonFields for EndpointTarget {
    fn read(object: &mut JsonObject, rules: &Rules<'_>) -> Option<Self> {
        let kind = object.optional("kind", rules).unwrap_or_default();
        let url = match kind {
            EndpointKind::Webhook => Some(object.required("url", rules)?),
            EndpointKind::Pull => object.optional("url", rules),
        };
        Some(Self { kind, url })
    }

    fn describe(schema: &mut ObjectSchema) {
        schema.optional::<EndpointKind>("kind", "`webhook` if unset; `pull` makes an inbox.");
        schema.optional::<EndpointUrl>(
            "url",
            "Where webhooks are posted: an absolute `https` URL. An inbox has none.",
        );
    }
}

json_fields! {
    /// How a new inbox gives events out.
    pub(in crate::http) struct InboxFields {
        /// Seconds for which a received event is hidden from other consumers; unset means 30.
        nullable visibility_seconds: Visibility,
        /// How often an event is received at most before it is a dead letter; unset means 10.
        nullable max_receives: MaxReceives,
    }
}

json_fields! {
    /// A change of how an inbox gives events out.
    pub(in crate::http) struct InboxPatch {
        /// Seconds for which a received event is hidden from other consumers; `null` means 30.
        patch visibility_seconds: Visibility,
        /// How often an event is received at most before it is a dead letter; `null` means 10.
        patch max_receives: MaxReceives,
    }
}

json_fields! {
    /// How a new endpoint's deliveries are made.
    pub(in crate::http) struct PolicyFields {
        /// Attempts in flight at most; unset follows the server.
        nullable max_concurrency: Concurrency,
        /// Attempts started per second at most; unset means no limit.
        nullable rate_limit_per_second: RateLimit,
        /// The waits between attempts; unset follows the server.
        nullable retry_schedule: RetrySchedule,
        /// Whether webhooks are sent one at a time, in the order their events were accepted.
        optional ordered: bool,
    }
}

json_fields! {
    /// A change of an endpoint.
    pub(in crate::http) struct EndpointPatch {
        /// Whether webhooks are sent to it, or events kept in it. Enabling also sends what was due meanwhile.
        patch enabled: bool,
        /// Where webhooks are posted: an absolute `https` URL.
        optional url: EndpointUrl,
        /// Which events it receives; `null` means all events.
        patch event_types: EventTypeFilters,
        /// A note for people.
        patch description: Description,
        /// Custom headers sent with its webhooks; they replace all earlier ones.
        patch headers: CustomHeaders,
        /// The body of its webhooks: `standard` or `cloudevents`; `null` means `standard`.
        patch format: WebhookFormat,
        /// How its deliveries are made.
        group policy: PolicyPatch,
        /// How an inbox gives events out.
        group inbox: InboxPatch,
    }
}

json_fields! {
    /// A change of how an endpoint's deliveries are made.
    pub(in crate::http) struct PolicyPatch {
        /// Attempts in flight at most; `null` follows the server.
        patch max_concurrency: Concurrency,
        /// Attempts started per second at most; `null` means no limit.
        patch rate_limit_per_second: RateLimit,
        /// The waits between attempts; `null` follows the server.
        patch retry_schedule: RetrySchedule,
        /// Whether webhooks are sent one at a time, in the order their events were accepted.
        patch ordered: bool,
    }
}

/// `POST /api/endpoints`: 201 with the endpoint and its secret.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Body(new): Body<EndpointBody>,
) -> Result<(EntityTag, Secret<Created<NewEndpointView>>), ApiError> {
    let (new, by) = (NewEndpoint::from(&new), tenant.actor());
    let endpoint = endpoints::create(app.subsystems(), tenant.org_id, new, &by).await?;
    let location = format!("/api/endpoints/{}", endpoint.id);
    let created = Created { location, body: (&endpoint).into() };
    Ok((EntityTag(endpoint.revision()), Secret(created)))
}

/// `GET /api/endpoints`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsRead>,
    List { page, listing, filter: EndpointQuery { account_id } }: List<EndpointQuery>,
) -> Result<Json<ListPage<EndpointView>>, ApiError> {
    let account = account_id.as_ref().map(|label| label.0.as_str());
    let endpoints = endpoints::list(app.reads(), tenant.org_id, account, page).await?;
    let manages = manages(&tenant);
    let view = |endpoint| if manages { endpoint } else { EndpointView::masked(endpoint) };
    Ok(Json(listing.page(endpoints.map(|endpoint| view((&endpoint).into())))))
}

/// `GET /api/endpoints/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsRead>,
    Id(id): Id<EndpointId>,
    _: NoQuery,
) -> Result<(EntityTag, Json<EndpointDetail>), ApiError> {
    let endpoint = endpoints::one(app.reads(), tenant.org_id, id).await?;
    let detail = endpoints::detail(app.reads(), &endpoint).await?;
    let detail = if manages(&tenant) { detail } else { detail.masked() };
    Ok((EntityTag(endpoint.revision()), Json(detail)))
}

/// Whether a reader may know what may be a credential.
fn manages(tenant: &Tenant) -> bool {
    tenant.principal.scopes.include(Scopes::of(Scope::EndpointsManage))
}

/// `PATCH /api/endpoints/{id}`: changes the fields that are sent and differ.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    if_match: IfMatch,
    patch: MergePatch<EndpointPatch>,
) -> Result<(EntityTag, Json<EndpointDetail>), ApiError> {
    let endpoint = endpoints::one(app.subsystems(), tenant.org_id, id).await?;
    let subsystems = if_match.allow(app.subsystems(), &endpoint.revision())?;
    let current = endpoints::detail(&subsystems, &endpoint).await?;
    let patch = patch.without(&EndpointDetail::MEASURED);
    let Some(change) = patch.against(&current)? else {
        return Ok((EntityTag(endpoint.revision()), Json(current)));
    };
    let (change, by) = (change.into(), tenant.actor());
    let changed = endpoints::change(&subsystems, tenant.org_id, id, &change, &by).await?;
    let detail = endpoints::detail(&subsystems, &changed).await?;
    Ok((EntityTag(changed.revision()), Json(detail)))
}

/// `DELETE /api/endpoints/{id}`: its pending deliveries are cancelled.
pub(in crate::http) async fn remove(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    if_match: IfMatch,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    let subsystems = if_match.guard(app.subsystems());
    endpoints::delete(&subsystems, tenant.org_id, id, &tenant.actor()).await?;
    Ok(NoContent)
}

/// `POST /api/endpoints/{id}/cancel-pending`: 200 with the number of those that were cancelled at once;
/// `in_progress` says that more are cancelled in the background.
pub(in crate::http) async fn cancel_pending(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    _: EmptyBody,
) -> Result<Json<CancelledDeliveries>, ApiError> {
    let by = tenant.actor();
    Ok(Json(endpoints::cancel_pending(app.subsystems(), tenant.org_id, id, &by).await?))
}

/// Each kind of endpoint has settings that the other one lacks.
fn check_kind(body: &EndpointBody) -> Result<(), Violation> {
    NewEndpoint::from(body).check_kind()
}

impl From<&EndpointBody> for NewEndpoint {
    fn from(body: &EndpointBody) -> Self {
        let EndpointBody {
            target,
            event_types,
            description,
            secret,
            headers,
            format,
            policy,
            inbox,
            account_id,
        } = body;
        let InboxFields { visibility_seconds, max_receives } = inbox;
        let inbox = InboxSettings {
            visibility_seconds: visibility_seconds.map(|seconds| seconds.0),
            max_receives: max_receives.map(|max| max.0),
        };
        let config = EndpointConfig::new(inbox, format.unwrap_or_default());
        Self {
            kind: target.kind,
            url: target.url.as_ref().map(|url| url.0.clone()),
            event_types: event_types.clone().unwrap_or_default(),
            description: description.as_ref().map(|description| description.0.clone()),
            headers: headers.clone().unwrap_or_default(),
            policy: policy.into(),
            config,
            secret: secret.into(),
            account_id: account_id.as_ref().map(|label| label.0.clone()),
        }
    }
}

impl From<&PolicyFields> for DeliveryPolicy {
    fn from(fields: &PolicyFields) -> Self {
        let PolicyFields { max_concurrency, rate_limit_per_second, retry_schedule, ordered } =
            fields;
        Self {
            max_concurrency: max_concurrency.map(|number| number.0),
            rate_limit_per_second: rate_limit_per_second.map(|number| number.0),
            retry_schedule: retry_schedule.clone(),
            ordered: ordered.unwrap_or_default(),
        }
    }
}

impl From<EndpointPatch> for EndpointChange {
    fn from(patch: EndpointPatch) -> Self {
        let EndpointPatch {
            enabled,
            url,
            event_types,
            description,
            headers,
            format,
            policy,
            inbox,
        } = patch;
        let InboxPatch { visibility_seconds, max_receives } = inbox;
        let reason = |enabled: bool| (!enabled).then(|| DISABLED_BY_OWNER.to_owned());
        Self {
            url: url.map(|url| url.0),
            event_types: event_types.or(EventTypeFilters::default()),
            description: description.map(|description| description.0).into_option(),
            headers: headers.or(CustomHeaders::default()),
            disabled_reason: enabled.or(true).map(reason),
            policy: policy.into(),
            format: format.or(WebhookFormat::default()),
            inbox: InboxSettingsChange {
                visibility_seconds: visibility_seconds.map(|seconds| seconds.0).into_option(),
                max_receives: max_receives.map(|max| max.0).into_option(),
            },
        }
    }
}

impl From<PolicyPatch> for DeliveryPolicyChange {
    fn from(patch: PolicyPatch) -> Self {
        let PolicyPatch { max_concurrency, rate_limit_per_second, retry_schedule, ordered } = patch;
        Self {
            max_concurrency: max_concurrency.map(|number| number.0).into_option(),
            rate_limit_per_second: rate_limit_per_second.map(|number| number.0).into_option(),
            retry_schedule: retry_schedule.into_option(),
            ordered: ordered.or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::{Endpoint, OrgId, SigningSecret, Timestamp};

    #[test]
    fn every_field_that_can_be_changed_is_shown() {
        let now = Timestamp::from_micros(1);
        let url = "https://example.com/hook".parse().unwrap();
        let secret = SigningSecret::generate().unwrap();
        let endpoint = Endpoint::new(OrgId::mint(now), url, secret, now);
        let shown = serde_json::to_value(EndpointDetail::new(&endpoint, 0, None)).unwrap();
        let mut schema = ObjectSchema::default();
        EndpointPatch::describe(&mut schema);
        let schema: Value = schema.into_value();
        for field in schema["properties"].as_object().unwrap().keys() {
            assert!(shown.get(field).is_some(), "{field} is not in the view");
        }
    }
}
