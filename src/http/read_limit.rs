//! The limit of reads: per minute, and in progress at once.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::time::timeout;

use super::charges;
use super::error::ApiError;
use super::metrics::RejectedRequest;
use super::request::Input;
use super::state::AppState;
use crate::auth::Principal;
use crate::domain::Role;
use crate::limit::{ConcurrencyPermit, FairPermit, Reader};
use crate::store::StoreError;

/// The right to read, held while a handler runs. As an extractor it comes after the caller.
#[derive(Debug)]
pub(super) struct ReadPermit {
    // Given back in this order.
    _connection: FairPermit<Reader>,
    _in_progress: ConcurrencyPermit<Reader>,
}

impl ReadPermit {
    /// Charges a read, and waits until the caller may have one more in progress and a connection is left to it.
    pub(super) async fn take(app: &AppState, principal: &Principal) -> Result<Self, ApiError> {
        charges::take_read(app, principal)?;
        Self::take_charged(app, principal).await
    }

    /// The same for a read that was charged before.
    pub(super) async fn take_charged(
        app: &AppState,
        principal: &Principal,
    ) -> Result<Self, ApiError> {
        let reader = match principal.role {
            Role::Tenant(org) => Reader::Org(org),
            Role::Operator => Reader::Operator(principal.key_id),
        };
        let limiter = app.read_limiter();
        let Some(in_progress) = limiter.acquire(reader).await else {
            app.metrics.http.rejected_requests_total.of(RejectedRequest::TooManyReads).inc();
            return Err(ApiError::TooManyReads { reads_max: limiter.per_key() });
        };
        let connection = app.read_connections().acquire(reader);
        let connection = timeout(app.settings().read_timeout, connection).await;
        let connection = connection.map_err(|_| ApiError::Store(StoreError::no_answer()))?;
        Ok(Self { _connection: connection, _in_progress: in_progress })
    }
}

impl FromRequestParts<AppState> for ReadPermit {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let principal = parts.extensions.get::<Arc<Principal>>().cloned();
        let principal = principal.ok_or_else(|| ApiError::internal("a read without a caller"))?;
        Self::take(app, &principal).await
    }
}

impl Input for ReadPermit {}
