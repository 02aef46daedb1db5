//! Why a use case did nothing.

use std::fmt;

use crate::auth::IssueError;
use crate::domain::{
    ApiKeyId, DeadLetterId, DeliveryId, Endpoint, EndpointId, ErasureId, EventId,
    KeyRotationRefusal, OrgId, ReplayId, SecretRotationRefusal, Violation,
};
use crate::store::{AddRefusal, DeliveryRefusal, PlanRefusal, StoreError};

/// Why a use case did nothing. Its `Display` is for operators; HTTP maps it to a problem.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The resource does not exist, or belongs to another organisation.
    #[error("there is no {0}")]
    NotFound(Missing),
    /// A value breaks a rule.
    #[error("{} {}", .0.field, .0.message)]
    Invalid(Violation),
    /// The organisation has as many of these as it may have.
    #[error("the organisation's quota of {most} {what} is used up; an operator can raise it")]
    QuotaReached {
        /// Of what, such as `keys`.
        what: &'static str,
        /// The quota.
        most: u32,
    },
    /// The delivery, or its endpoint, does not permit it.
    #[error(transparent)]
    Delivery(DeliveryRefusal),
    /// The store rejects a quarantined event again, for this reason.
    #[error("the store rejects the event again: {0}")]
    StillRefused(String),
    /// The endpoint's secret cannot be rotated, or not be read.
    #[error(transparent)]
    SecretRotation(SecretRotationRefusal),
    /// The key cannot be rotated.
    #[error(transparent)]
    KeyRotation(KeyRotationRefusal),
    /// The key that asks was rotated, so it manages no keys.
    #[error("the key was rotated and is in its grace period; use its successor")]
    KeyInGrace,
    /// The key that asks expires before the one that it would make.
    #[error("the key that asks expires before the new one would")]
    KeyExpiresEarlier,
    /// No key was issued.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The system has no random source.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// The inbox is disabled, for this reason.
    #[error("the inbox is disabled: {0}")]
    InboxDisabled(String),
    /// The endpoint is for webhooks: nothing is fetched from it.
    #[error("the endpoint is for webhooks; events are fetched from endpoints of kind pull")]
    NotAnInbox,
    /// The endpoint is an inbox: nothing is sent to it, and nothing signed.
    #[error(
        "the endpoint is an inbox; nothing is sent to it, so it has no secret and takes no test event"
    )]
    NotAWebhook,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was not found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// An organisation.
    Org(OrgId),
    /// A key.
    Key(ApiKeyId),
    /// An account of an organisation.
    Account(OrgId),
    /// An endpoint of an organisation.
    Endpoint(OrgId, EndpointId),
    /// The default inbox of an organisation, which nobody has opened.
    DefaultInbox(OrgId),
    /// An event of an organisation.
    Event(OrgId, EventId),
    /// A delivery of an organisation.
    Delivery(OrgId, DeliveryId),
    /// A dead letter of an organisation.
    DeadLetter(OrgId, DeadLetterId),
    /// A replay of an organisation.
    Replay(OrgId, ReplayId),
    /// An erasure of an organisation.
    Erasure(OrgId, ErasureId),
}

impl Refusal {
    /// The refusal of one more of `what`.
    pub(super) fn add(org: OrgId, what: &'static str, refusal: AddRefusal) -> Self {
        match refusal {
            AddRefusal::OverQuota(most) => Self::QuotaReached { what, most },
            AddRefusal::AccountFull => {
                let rule = format!(
                    "has {} endpoints already, as many as one may have",
                    Endpoint::PER_ACCOUNT_MAX
                );
                let mut violation = Violation::new("account_id", "quota", rule);
                violation.locate("");
                Self::Invalid(violation)
            }
            AddRefusal::OrgDeleted => Self::NotFound(Missing::Org(org)),
        }
    }

    /// The refusal to plan a delivery to an endpoint.
    pub(super) fn plan(org: OrgId, id: EndpointId, refusal: PlanRefusal) -> Self {
        match refusal {
            PlanRefusal::NotFound => Self::NotFound(Missing::Endpoint(org, id)),
            PlanRefusal::Inbox => Self::NotAWebhook,
            PlanRefusal::EndpointDisabled => Self::Delivery(DeliveryRefusal::EndpointDisabled),
        }
    }

    /// The refusal to retry, replay or cancel a delivery.
    pub(super) fn delivery(org: OrgId, id: DeliveryId, refusal: DeliveryRefusal) -> Self {
        match refusal {
            DeliveryRefusal::NotFound => Self::NotFound(Missing::Delivery(org, id)),
            DeliveryRefusal::EndpointRemoved
            | DeliveryRefusal::EndpointDisabled
            | DeliveryRefusal::InProgress
            | DeliveryRefusal::EventRemoved
            | DeliveryRefusal::Finished => Self::Delivery(refusal),
        }
    }

    /// The refusal to rotate an endpoint's secret.
    pub(super) fn secret_rotation(
        org: OrgId,
        id: EndpointId,
        refusal: SecretRotationRefusal,
    ) -> Self {
        match refusal {
            SecretRotationRefusal::NotFound => Self::NotFound(Missing::Endpoint(org, id)),
            SecretRotationRefusal::TooManySecrets | SecretRotationRefusal::Undecryptable => {
                Self::SecretRotation(refusal)
            }
        }
    }

    /// The refusal to rotate a key.
    pub(super) fn key_rotation(id: ApiKeyId, refusal: KeyRotationRefusal) -> Self {
        match refusal {
            KeyRotationRefusal::NotFound => Self::NotFound(Missing::Key(id)),
            KeyRotationRefusal::Inactive
            | KeyRotationRefusal::AlreadyRotated(_)
            | KeyRotationRefusal::OverQuota(_) => Self::KeyRotation(refusal),
        }
    }
}

impl From<Violation> for Refusal {
    fn from(violation: Violation) -> Self {
        Self::Invalid(violation)
    }
}

impl From<Missing> for Refusal {
    fn from(missing: Missing) -> Self {
        Self::NotFound(missing)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Org(id) => write!(f, "organisation {id}"),
            Self::Key(id) => write!(f, "key {id}"),
            Self::Account(org) => write!(f, "event of this account of organisation {org}"),
            Self::Endpoint(org, id) => write!(f, "endpoint {id} of organisation {org}"),
            Self::DefaultInbox(org) => write!(f, "the default inbox of organisation {org}"),
            Self::Event(org, id) => write!(f, "event {id} of organisation {org}"),
            Self::Delivery(org, id) => write!(f, "delivery {id} of organisation {org}"),
            Self::DeadLetter(org, id) => write!(f, "dead letter {id} of organisation {org}"),
            Self::Replay(org, id) => write!(f, "replay {id} of organisation {org}"),
            Self::Erasure(org, id) => write!(f, "erasure {id} of organisation {org}"),
        }
    }
}
