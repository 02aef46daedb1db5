//! An endpoint's secrets: shown and rotated.

use std::time::Duration;

use axum::extract::State;

use crate::api::endpoints;
use crate::api::views::SecretsView;
use crate::domain::{EndpointId, SecretChoice, Secrets, SignatureScheme, SigningSecret, Violation};
use crate::http::charges;
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped};
use crate::http::request::{NoQuery, OptionalBody, Whole, json_fields};
use crate::http::respond::{Json, Secret};
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

/// `GET /api/endpoints/{id}/secret`. It costs one of the write limit: each reading is kept in the audit log.
pub(in crate::http) async fn show(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    _: NoQuery,
) -> Result<Json<SecretsView>, ApiError> {
    charges::take_write(&app, &tenant.principal)?;
    let by = tenant.actor();
    Ok(Json(endpoints::show_secrets(app.subsystems(), tenant.org_id, id, &by).await?))
}

/// `POST /api/endpoints/{id}/secret/rotate`: 200 with the new secret, and the old one for as long as
/// it signs beside it.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    OptionalBody(rotation): OptionalBody<SecretRotation>,
) -> Result<Secret<Json<SecretsView>>, ApiError> {
    let SecretRotation { secret, overlap_seconds } = rotation;
    let overlap = overlap_seconds.map(|seconds| Duration::from_secs(seconds.0.into()));
    let overlap = overlap.unwrap_or(Secrets::OVERLAP_DEFAULT);
    let (choice, by) = (secret.into(), tenant.actor());
    let rotated =
        endpoints::rotate_secret(app.subsystems(), tenant.org_id, id, choice, overlap, &by);
    Ok(Secret(Json(rotated.await?)))
}

fn agree(fields: &SecretFields) -> Result<(), Violation> {
    SecretChoice::from(fields).check()
}

impl From<&SecretFields> for SecretChoice {
    fn from(SecretFields { signature, secret }: &SecretFields) -> Self {
        Self { scheme: *signature, provided: secret.clone() }
    }
}

impl From<SecretFields> for SecretChoice {
    fn from(SecretFields { signature, secret }: SecretFields) -> Self {
        Self { scheme: signature, provided: secret }
    }
}
