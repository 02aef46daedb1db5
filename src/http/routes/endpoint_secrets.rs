//! An endpoint's secrets: what its owner brings, sees and rotates.
//!
//! For HMAC the owner sees the secret, which receivers verify with. For Ed25519 only the public key
//! is ever shown: the private one is of use to Hookgate alone.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use crate::domain::{
    Endpoint, EndpointId, PublicKey, SecretChoice, SecretRotationRefusal, Secrets, SignatureScheme,
    SigningSecret, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped};
use crate::http::json_object::{self, Checked, JsonObject, OptionalJsonObject};
use crate::http::query::Query;
use crate::http::respond;
use crate::http::state::AppState;

/// What receivers of an endpoint's webhooks verify with.
#[derive(Serialize)]
struct SecretsView {
    id: EndpointId,
    #[serde(flatten)]
    current: SecretView,
    /// Those that still sign beside it, newest first.
    earlier: Vec<EarlierView>,
}

#[derive(Serialize)]
struct SecretView {
    signature: SignatureScheme,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<PublicKey>,
}

#[derive(Serialize)]
struct EarlierView {
    #[serde(flatten)]
    secret: SecretView,
    /// It signs attempts that start before this moment.
    until: Timestamp,
}

/// `GET /api/endpoints/{id}/secret`.
pub(in crate::http) async fn show(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let now = app.clock.now();
    let answer = shown(&endpoint, now)?;
    app.store.note_secret_shown(tenant.org_id, id, &tenant.actor(), now).await?;
    Ok(answer)
}

/// `POST /api/endpoints/{id}/secret/rotate`: 200 with the new secret, and the old one beside it for
/// `overlap_seconds`, a day unless it is named.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    OptionalJsonObject(mut fields): OptionalJsonObject,
) -> Result<Response, ApiError> {
    let choice = choice(&mut fields);
    let overlap = fields.nullable("overlap_seconds", overlap_seconds).flatten();
    let choice = fields.finish(Some(choice))?;
    let old = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    // A secret signs like the one before, unless its owner says otherwise.
    let scheme = old.secrets.as_ref().map(|secrets| secrets.current().scheme());
    let new = chosen(choice, scheme.unwrap_or_default())?;
    let overlap = overlap.unwrap_or(Secrets::OVERLAP_DEFAULT);
    let now = app.clock.now();
    let rotated =
        app.store.rotate_secret(tenant.org_id, id, &new, overlap, &tenant.actor(), now).await?;
    let rotated = rotated.map_err(ApiError::Rotation)?;
    app.delivery.evict_endpoint(id);
    shown(&rotated, now)
}

/// Takes the fields that say what a new secret is to be.
pub(super) fn choice(fields: &mut JsonObject) -> SecretChoice {
    let scheme =
        |value: &Value| json_object::word("signature", value, "must be hmac-sha256 or ed25519");
    let secret = |value: &Value| {
        let rule = "must be whsec_ followed by the base64 of 24 to 64 bytes, or whsk_ followed by \
                    the base64 of an Ed25519 key (its seed, or seed and public key)";
        json_object::word("secret", value, rule)
    };
    let choice = SecretChoice {
        scheme: fields.nullable("signature", scheme).flatten(),
        provided: fields.nullable("secret", secret).flatten(),
    };
    fields.note(choice.check());
    choice
}

/// The secret that was chosen.
fn chosen(choice: SecretChoice, default: SignatureScheme) -> Result<SigningSecret, ApiError> {
    choice.secret(default).map_err(|error| ApiError::internal(error.to_string()))
}

/// The text of a secret that receivers need.
pub(super) fn for_receivers(secret: &SigningSecret) -> Option<String> {
    secret.public_key().is_none().then(|| secret.reveal())
}

fn overlap_seconds(value: &Value) -> Checked<Duration> {
    let seconds =
        json_object::number("overlap_seconds", value, &(0..=Secrets::OVERLAP_SECONDS_MAX))?;
    Ok(Duration::from_secs(u64::from(seconds)))
}

fn shown(endpoint: &Endpoint, now: Timestamp) -> Result<Response, ApiError> {
    let unreadable = |_| ApiError::Rotation(SecretRotationRefusal::Undecryptable);
    let secrets = endpoint.secrets.as_ref().map_err(unreadable)?;
    let earlier = secrets.earlier_at(now).map(|earlier| EarlierView {
        secret: SecretView::of(&earlier.secret),
        until: earlier.until,
    });
    let view = SecretsView {
        id: endpoint.id,
        current: SecretView::of(secrets.current()),
        earlier: earlier.collect(),
    };
    respond::ok(&view)
}

impl SecretView {
    fn of(secret: &SigningSecret) -> Self {
        Self {
            signature: secret.scheme(),
            secret: for_receivers(secret),
            public_key: secret.public_key(),
        }
    }
}
