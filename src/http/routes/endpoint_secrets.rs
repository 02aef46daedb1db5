//! An endpoint's secrets: shown and rotated.

use std::time::Duration;

use axum::extract::State;

use crate::api::views::SecretsView;
use crate::domain::{
    Endpoint, EndpointId, SecretChoice, SecretRotationRefusal, Secrets, SignatureScheme,
    SigningSecret, Timestamp, Violation,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped};
use crate::http::request::{NoQuery, OptionalBody, Whole, json_fields};
use crate::http::respond::Json;
use crate::http::state::AppState;

json_fields! {
    /// What a new secret is to be: of this scheme, or this secret.
    pub(in crate::http) struct SecretFields check(agree) {
        /// The signature scheme; unset means that of the secret, or of the one before.
        nullable signature: SignatureScheme,
        /// The secret itself; generated if unset.
        nullable secret: SigningSecret,
    }
}

json_fields! {
    /// A rotation of an endpoint's secret.
    pub(in crate::http) struct SecretRotation {
        /// The new secret.
        group secret: SecretFields,
        /// Seconds for which the old secret signs beside the new one; a day if unset.
        nullable overlap_seconds: Whole<0, { Secrets::OVERLAP_SECONDS_MAX }>,
    }
}

/// `GET /api/endpoints/{id}/secret`.
pub(in crate::http) async fn show(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    _: NoQuery,
) -> Result<Json<SecretsView>, ApiError> {
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let now = app.clock.now();
    let view = view(&endpoint, now)?;
    app.store.note_secret_shown(tenant.org_id, id, &tenant.actor(), now).await?;
    Ok(Json(view))
}

/// `POST /api/endpoints/{id}/secret/rotate`: 200 with the new secret, and the old one for as long as
/// it signs beside it.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    OptionalBody(rotation): OptionalBody<SecretRotation>,
) -> Result<Json<SecretsView>, ApiError> {
    let old = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    // A secret signs like the one before, unless its owner says otherwise.
    let scheme = old.secrets.as_ref().map(|secrets| secrets.current().scheme());
    let new = generated(rotation.secret.into(), scheme.unwrap_or_default())?;
    let overlap = rotation.overlap_seconds.map(|seconds| Duration::from_secs(seconds.0.into()));
    let (overlap, now) = (overlap.unwrap_or(Secrets::OVERLAP_DEFAULT), app.clock.now());
    let rotated =
        app.store.rotate_secret(tenant.org_id, id, &new, overlap, &tenant.actor(), now).await?;
    let rotated = rotated.map_err(ApiError::Rotation)?;
    app.delivery.evict_endpoint(id);
    Ok(Json(view(&rotated, now)?))
}

/// The secret that was chosen, generated if need be.
pub(super) fn generated(
    choice: SecretChoice,
    default: SignatureScheme,
) -> Result<SigningSecret, ApiError> {
    choice.secret(default).map_err(|error| ApiError::internal(error.to_string()))
}

fn view(endpoint: &Endpoint, now: Timestamp) -> Result<SecretsView, ApiError> {
    let unreadable = |_| ApiError::Rotation(SecretRotationRefusal::Unreadable);
    let secrets = endpoint.secrets.as_ref().map_err(unreadable)?;
    Ok(SecretsView::new(endpoint.id, secrets, now))
}

fn agree(fields: &SecretFields) -> Result<(), Violation> {
    SecretChoice { scheme: fields.signature, provided: fields.secret.clone() }.check()
}

impl From<SecretFields> for SecretChoice {
    fn from(SecretFields { signature, secret }: SecretFields) -> Self {
        Self { scheme: signature, provided: secret }
    }
}
