//! What a claim is for: endpoints as they were read for it.

use std::sync::Arc;

use crate::domain::{EndpointId, OrgId};

use super::admission::Target;
use super::endpoint_cache::{DatabaseEpoch, KnownEndpoints};

/// The endpoints to claim for.
#[derive(Debug)]
pub(super) struct ClaimTargets {
    pub(super) endpoints: Vec<Target>,
    /// What they were read from.
    pub(super) database: DatabaseEpoch,
    /// Whether the scan found more than it could return.
    pub(super) has_more: bool,
}

/// What is known of an endpoint that is enabled.
pub(super) fn target(
    read: &KnownEndpoints,
    org: OrgId,
    id: EndpointId,
    ordered: bool,
    is_due: bool,
) -> Option<Target> {
    let of_org = read.by_org.get(&org)?;
    let endpoint = of_org.endpoint(id)?;
    Some(Target { endpoint: Arc::clone(endpoint), version: of_org.version, is_due, ordered })
}
