//! Rotates and re-encrypts the secrets of endpoints.
//!
//! Secrets and custom header fields are written in clear without `SECRETS_KEY`, and encrypted by its
//! first key with it. Both are read, whatever the setting; what cannot be read is
//! [`DecryptionError`](crate::domain::DecryptionError) within its endpoint.

use std::time::Duration;

use super::{Store, StoreError, on_engine};
use crate::domain::{
    Actor, Endpoint, EndpointId, OrgId, SecretRotationRefusal, SigningSecret, Timestamp,
};

/// What a step of encrypting did.
#[derive(Debug, Default)]
pub struct Resealed {
    /// Endpoints that were looked at.
    pub endpoints: usize,
    /// Those that were written anew.
    pub encrypted: usize,
    /// Those that cannot be read, which stay as they are.
    pub unreadable: Vec<EndpointId>,
    /// Where the next step goes on; `None` after the last one.
    pub next: Option<EndpointId>,
}

/// A key that is needed and not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingKey {
    /// Its id, as sealed texts name it.
    pub id: String,
    /// How many texts are encrypted by it.
    pub texts: i64,
}

/// Endpoints in one step of encrypting.
pub(super) const RESEALED_PER_STEP: i64 = 100;

impl Store {
    /// Puts `new` in the place of an endpoint's secret, which goes on signing for `overlap`, and
    /// returns the endpoint as it is now. [`Endpoint::rotated_secrets`] has the rules.
    pub async fn rotate_secret(
        &self,
        org: OrgId,
        id: EndpointId,
        new: &SigningSecret,
        overlap: Duration,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Endpoint, SecretRotationRefusal>, StoreError> {
        on_engine!(self, rotate_secret(org, id, new, overlap, by, now))
    }

    /// Encrypts what is in clear, or by another key, by the first key: one step, over some endpoints
    /// after `after` in the order of their ids. Doing it again changes nothing, so it can be broken
    /// off at any time and begun anew. Without keys it changes nothing.
    pub async fn reseal_secrets_across_orgs(
        &self,
        after: Option<EndpointId>,
    ) -> Result<Resealed, StoreError> {
        on_engine!(self, reseal_secrets_across_orgs(after))
    }

    /// The keys that something is encrypted by and that `SECRETS_KEY` does not list: a look at every
    /// endpoint, for a server that starts.
    pub async fn missing_keys_across_orgs(&self) -> Result<Vec<MissingKey>, StoreError> {
        on_engine!(self, missing_keys_across_orgs())
    }
}
