//! Why a use case did nothing.

use crate::domain::SecretRotationRefusal;
use crate::store::{AddRefusal, PlanRefusal, StoreError};

/// Why a use case did nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The resource does not exist, or belongs to another organisation.
    #[error("not found")]
    NotFound,
    /// The organisation has as many of these as it may have.
    #[error("{what} quota ({most}) reached")]
    QuotaReached {
        /// Of what.
        what: &'static str,
        /// The quota.
        most: u32,
    },
    /// The endpoint is disabled.
    #[error("the endpoint is disabled")]
    EndpointDisabled,
    /// The endpoint's secret cannot be rotated, or not be read.
    #[error(transparent)]
    SecretRotation(SecretRotationRefusal),
    /// The system has no random source.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Refusal {
    /// The refusal of one more of `what`.
    pub(super) fn add(what: &'static str, refusal: AddRefusal) -> Self {
        match refusal {
            AddRefusal::OverQuota(most) => Self::QuotaReached { what, most },
            AddRefusal::OrgDeleted => Self::NotFound,
        }
    }
}

impl From<SecretRotationRefusal> for Refusal {
    fn from(refusal: SecretRotationRefusal) -> Self {
        match refusal {
            SecretRotationRefusal::NotFound => Self::NotFound,
            SecretRotationRefusal::TooManySecrets | SecretRotationRefusal::Undecryptable => {
                Self::SecretRotation(refusal)
            }
        }
    }
}

impl From<PlanRefusal> for Refusal {
    fn from(refusal: PlanRefusal) -> Self {
        match refusal {
            PlanRefusal::NotFound => Self::NotFound,
            PlanRefusal::EndpointDisabled => Self::EndpointDisabled,
        }
    }
}
