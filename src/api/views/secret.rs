//! Secrets of an endpoint: what its receivers verify with.
//!
//! For HMAC that is the secret. For Ed25519 it is the public key: the private one is never shown.

use schemars::JsonSchema;
use serde::Serialize;

use crate::domain::{
    EarlierSecret, EndpointId, PublicKey, Secrets, SignatureScheme, SigningSecret, Timestamp,
};

/// What receivers of an endpoint's webhooks verify with.
#[derive(JsonSchema, Serialize)]
pub struct SecretsView {
    /// The endpoint.
    pub id: EndpointId,
    /// The secret in use.
    #[serde(flatten)]
    pub current: SecretView,
    /// Rotated secrets that still sign beside it, newest first.
    pub earlier: Vec<EarlierSecretView>,
}

/// One secret.
#[derive(JsonSchema, Serialize)]
pub struct SecretView {
    /// How it signs.
    pub signature: SignatureScheme,
    /// The secret; absent for Ed25519.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The public key; absent for HMAC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKey>,
}

/// A rotated secret that still signs.
#[derive(JsonSchema, Serialize)]
pub struct EarlierSecretView {
    /// The secret.
    #[serde(flatten)]
    pub secret: SecretView,
    /// It signs attempts that start before this time.
    pub until: Timestamp,
}

/// The text of a secret that receivers need; `None` for Ed25519.
pub fn text_for_receivers(secret: &SigningSecret) -> Option<String> {
    secret.public_key().is_none().then(|| secret.reveal())
}

impl SecretsView {
    /// The secrets of an endpoint that sign at `now`.
    pub fn new(id: EndpointId, secrets: &Secrets, now: Timestamp) -> Self {
        let current = secrets.current().into();
        Self {
            id,
            current,
            earlier: secrets.earlier_at(now).map(EarlierSecretView::from).collect(),
        }
    }
}

impl From<&SigningSecret> for SecretView {
    fn from(secret: &SigningSecret) -> Self {
        Self {
            signature: secret.scheme(),
            secret: text_for_receivers(secret),
            public_key: secret.public_key(),
        }
    }
}

impl From<&EarlierSecret> for EarlierSecretView {
    fn from(earlier: &EarlierSecret) -> Self {
        Self { secret: (&earlier.secret).into(), until: earlier.until }
    }
}
