//! What a request takes from one rate limit, and the refusal if that is not left.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::byte_budget::Owner;
use super::error::ApiError;
use super::inbox_limit::{InboxPermit, InboxesBusy};
use super::metrics::RejectedRequest;
use super::state::AppState;
use super::stream_limits::StreamPermit;
use crate::auth::Principal;
use crate::domain::{OrgId, Role};
use crate::limit::{Bucket, Charge, Limit, RateDecision, Refused};
use crate::store::StoreError;

/// Charges a change by the management API to the write limit of the caller's organisation; an operator's to
/// that of its key, so that no tenant can use it up.
pub(super) fn take_write(app: &AppState, principal: &Principal) -> Result<(), ApiError> {
    let limit = match principal.role {
        Role::Tenant(org) => app.limiter.writes(org),
        Role::Operator => app.limiter.operator_writes(principal.key_id),
    };
    let account = of_account(principal, |org, account| app.limiter.account_writes(org, account));
    take_with(app, limit, account)
}

/// Charges a list or look-up to the read limit of the caller's organisation; an operator's to that of its key.
pub(super) fn take_read(app: &AppState, principal: &Principal) -> Result<(), ApiError> {
    let limit = match principal.role {
        Role::Tenant(org) => app.limiter.reads(org),
        Role::Operator => app.limiter.operator_reads(principal.key_id),
    };
    let account = of_account(principal, |org, account| app.limiter.account_reads(org, account));
    take_with(app, limit, account)
}

/// The limit of the account that a caller is limited to, so that it does not use up those of its organisation.
fn of_account(
    principal: &Principal,
    limit: impl FnOnce(OrgId, Arc<str>) -> Limit,
) -> Option<Limit> {
    Some(limit(principal.role.org_id()?, principal.account.clone()?))
}

/// Takes one from a limit, and from that of an account.
fn take_with(app: &AppState, limit: Limit, account: Option<Limit>) -> Result<(), ApiError> {
    let account: Vec<Charge> =
        account.into_iter().map(|limit| limit.charge(NonZeroU32::MIN)).collect();
    let charge = limit.charge(NonZeroU32::MIN);
    let taken = app.limiter.check_all(&charge, &account);
    taken.map(|_| ()).map_err(|refused| refusal(app, &refused))
}

/// Opens a long poll, a stream or an export, and counts a refusal.
///
/// # Errors
/// [`ApiError::Streams`] when too many are open.
pub(super) fn open_stream(app: &AppState, owner: Owner) -> Result<StreamPermit, ApiError> {
    app.streams().open(owner).map_err(|exhausted| {
        app.metrics.http.rejected_requests_total.of(RejectedRequest::TooManyStreams).inc();
        ApiError::Streams(exhausted)
    })
}

/// Waits until an organisation may use the store once more for its inboxes.
///
/// # Errors
/// When too many of its requests wait, or the store is busy with others for too long.
pub(super) async fn use_inbox(app: &AppState, org: OrgId) -> Result<InboxPermit, ApiError> {
    let permit = app.inbox_limits().acquire(org, app.settings().read_timeout).await;
    permit.map_err(|busy| match busy {
        InboxesBusy::Org(most) => {
            app.metrics.http.rejected_requests_total.of(RejectedRequest::TooManyReads).inc();
            ApiError::TooManyReads { reads_max: most }
        }
        InboxesBusy::Store => ApiError::Store(StoreError::no_answer()),
    })
}

/// Takes a charge.
pub(super) fn take(app: &AppState, charge: &Charge) -> Result<(), ApiError> {
    let taken = app.limiter.check_all(charge, &[]);
    taken.map(|_| ()).map_err(|refused| refusal(app, &refused))
}

/// Refuses when nothing is left of a limit.
pub(super) fn require_some_left(app: &AppState, limit: Limit) -> Result<(), ApiError> {
    let charge = limit.charge(NonZeroU32::MIN);
    app.limiter.look(&charge).map_err(|refused| refusal(app, &refused))
}

/// Counts and words a refusal.
pub(super) fn refusal(app: &AppState, refused: &Refused<'_>) -> ApiError {
    app.metrics.http.rejected_requests_total.of(RejectedRequest::RateLimited).inc();
    let Charge { limit: Limit { bucket, .. }, cost } = refused.charge;
    match refused.decision {
        RateDecision::Denied { state: quota, retry_after } => {
            ApiError::RateLimited { bucket: bucket.clone(), quota, retry_after }
        }
        RateDecision::ExceedsBurst(quota) | RateDecision::Allowed(quota) => match bucket {
            Bucket::Bytes(_) => {
                ApiError::TooLarge { what: "a request", bytes_max: quota.burst as usize }
            }
            _ => ApiError::OverBurst { bucket: bucket.clone(), quota, cost: cost.get() },
        },
    }
}
