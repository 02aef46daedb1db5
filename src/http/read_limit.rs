//! The limit of reads: per minute, and in progress at once.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::charges;
use super::error::ApiError;
use super::metrics::RejectedRequest;
use super::request::Input;
use super::state::AppState;
use crate::auth::Principal;
use crate::domain::Role;
use crate::limit::{ConcurrencyPermit, Reader};

/// The right to read, held while a handler runs. As an extractor it comes after the caller.
#[derive(Debug)]
pub(super) struct ReadPermit {
    _permit: ConcurrencyPermit<Reader>,
}

impl ReadPermit {
    /// Charges a read, and waits until the caller may have one more in progress.
    pub(super) async fn take(app: &AppState, principal: &Principal) -> Result<Self, ApiError> {
        charges::take_read(app, principal)?;
        let reader = match principal.role {
            Role::Tenant(org) => Reader::Org(org),
            Role::Operator => Reader::Operator(principal.key_id),
        };
        let limiter = app.read_limiter();
        let Some(permit) = limiter.acquire(reader).await else {
            app.metrics.http.rejected_requests_total.of(RejectedRequest::TooManyReads).inc();
            return Err(ApiError::TooManyReads { reads_max: limiter.per_key() });
        };
        Ok(Self { _permit: permit })
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
