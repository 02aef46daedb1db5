//! Endpoints: the receivers of a tenant's webhooks, and which events they subscribe to.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantNames};
use url::Url;

use super::{
    CustomHeaders, DeliveryPolicy, DeliveryPolicyChange, EndpointConfig, EndpointId,
    EventTypeFilters, InboxSettingsChange, OrgId, Secrets, SigningSecret, Timestamp,
    TooManySecrets, Violation, WebhookFormat,
};

/// A receiver of webhooks.
///
/// ```text
///            the owner or an operator disables it, it answers 410 Gone,
///            or every attempt has failed for longer than DISABLE_AFTER
///  enabled ──────────────────────────────────────────────────────────────▶ disabled
///     │  ◀──────────────────────────────────────────────────────────────── │
///     │      it is enabled again: deliveries that are due are claimed      │
///     └─────────▶ removed: pending deliveries are cancelled ◀──────────────┘
/// ```
/// The pending deliveries of a disabled endpoint wait as they are, and new events create none. Suspending an
/// organisation disables its endpoints until the suspension ends; events accepted before still create deliveries to
/// them. The row of a removed endpoint is kept, unseen, until nothing is pending for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The organisation it belongs to.
    pub org_id: OrgId,
    /// Where webhooks are posted; [`EndpointKind::NO_URL`] of an inbox.
    pub url: Url,
    /// Which events it receives; an empty list means every event that tenants post.
    pub event_types: EventTypeFilters,
    /// Free text by its owner.
    pub description: Option<String>,
    /// The secrets that sign its webhooks.
    pub secrets: Decrypted<Secrets>,
    /// Headers sent with its webhooks.
    pub headers: Decrypted<CustomHeaders>,
    /// Why it is disabled; `None` while it is enabled.
    pub disabled_reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// How its deliveries are made.
    pub policy: DeliveryPolicy,
    /// Its other settings.
    pub config: EndpointConfig,
    /// How its events reach it.
    pub kind: EndpointKind,
    /// The only account whose events it receives; `None` for all.
    pub account_id: Option<String>,
    /// The organisation's count of changes of its endpoints at the last change of this one. A higher version
    /// is newer, and an attempt is not started with an older one.
    pub version: u64,
    /// Deliveries that were created until then are not sent; those still pending are being cancelled.
    pub cancel_before: Option<Timestamp>,
    /// Since when every attempt has failed; `None` if the last one succeeded, or before the first.
    pub failing_since: Option<Timestamp>,
    /// When an attempt last succeeded, to the minute.
    pub last_success_at: Option<Timestamp>,
    /// When an attempt last failed, to the minute.
    pub last_failure_at: Option<Timestamp>,
    /// Whether it is its organisation's default inbox, of which there is one at most.
    pub default_inbox: bool,
    /// When somebody last fetched from an inbox, to the minute, or it was created or enabled again; `None` of other
    /// endpoints.
    pub last_read_at: Option<Timestamp>,
}

/// How events reach an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
#[derive(EnumString, IntoStaticStr, JsonSchema, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = EndpointKindError, parse_err_fn = unknown_kind)]
pub enum EndpointKind {
    /// As webhooks.
    #[default]
    Webhook,
    /// Its owner fetches them from an inbox; nothing is sent.
    Pull,
}

/// The text is not a kind of endpoint.
#[derive(Debug, thiserror::Error)]
#[error("{}", EndpointKind::RULE)]
pub struct EndpointKindError;

fn unknown_kind(_: &str) -> EndpointKindError {
    EndpointKindError
}

impl EndpointKind {
    /// What it must be, for people.
    pub const RULE: &'static str = "must be webhook or pull";
    /// The URL in the row of an endpoint that has none.
    pub const NO_URL: &'static str = "inbox:";

    /// Refuses a setting of webhook endpoints for an inbox.
    ///
    /// # Errors
    /// The violation.
    pub fn check_webhook_setting(self, field: &str) -> Result<(), Violation> {
        match self {
            Self::Webhook => Ok(()),
            Self::Pull => Err(Violation::new(
                field,
                "kind",
                "is for webhooks; to an endpoint of kind pull nothing is sent",
            )),
        }
    }

    /// Refuses a setting of inboxes for a webhook endpoint.
    ///
    /// # Errors
    /// The violation.
    pub fn check_inbox_setting(self, field: &str) -> Result<(), Violation> {
        match self {
            Self::Pull => Ok(()),
            Self::Webhook => {
                Err(Violation::new(field, "kind", "is for endpoints of kind pull, the inboxes"))
            }
        }
    }

    /// The word in the store and in responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Something the store may hold encrypted. An endpoint whose secrets cannot be decrypted can still be read
/// and changed; its deliveries fail until they can.
pub type Decrypted<T> = Result<T, DecryptionError>;

/// Why something could not be decrypted, in words that name the setting and show no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecryptionError(pub String);

/// Why a signing secret was not rotated, worded for the endpoint's owner and for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretRotationRefusal {
    /// The endpoint does not exist.
    #[error("the endpoint does not exist")]
    NotFound,
    /// The maximum of earlier secrets still signs.
    #[error(
        "three earlier secrets still sign; wait until one expires, or rotate with an overlap of 0 \
         seconds, which ends them all"
    )]
    TooManySecrets,
    /// The current secret cannot be decrypted, so it cannot keep signing during an overlap.
    #[error(
        "the current secret cannot be decrypted because SECRETS_KEY lacks its key; the operator can \
         add the key, or you can rotate with an overlap of 0 seconds"
    )]
    Undecryptable,
}

/// A change of an endpoint; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct EndpointChange {
    /// A new URL.
    pub url: Option<Url>,
    /// New filters.
    pub event_types: Option<EventTypeFilters>,
    /// New headers, which replace all others.
    pub headers: Option<CustomHeaders>,
    /// A new description; `Some(None)` removes it.
    pub description: Option<Option<String>>,
    /// `Some(None)` enables the endpoint, `Some(Some(reason))` disables it.
    pub disabled_reason: Option<Option<String>>,
    /// How its deliveries are made.
    pub policy: DeliveryPolicyChange,
    /// How an inbox gives events out.
    pub inbox: InboxSettingsChange,
    /// The format of its webhooks.
    pub format: Option<WebhookFormat>,
}

impl EndpointChange {
    /// Checks that an endpoint of this kind has what is changed.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self, kind: EndpointKind) -> Result<(), Violation> {
        let Self {
            url,
            event_types: _,
            headers,
            description: _,
            disabled_reason: _,
            policy,
            inbox,
            format,
        } = self;
        let DeliveryPolicyChange {
            max_concurrency,
            rate_limit_per_second,
            retry_schedule,
            ordered: _,
        } = policy;
        let of_webhooks = [
            ("url", url.is_some()),
            ("headers", headers.is_some()),
            ("max_concurrency", max_concurrency.is_some()),
            ("rate_limit_per_second", rate_limit_per_second.is_some()),
            ("retry_schedule", retry_schedule.is_some()),
            ("format", format.is_some()),
        ];
        let InboxSettingsChange { visibility_seconds, max_receives } = inbox;
        let of_inboxes = [
            ("visibility_seconds", visibility_seconds.is_some()),
            ("max_receives", max_receives.is_some()),
        ];
        for (field, _) in of_webhooks.into_iter().filter(|(_, is_set)| *is_set) {
            kind.check_webhook_setting(field)?;
        }
        for (field, _) in of_inboxes.into_iter().filter(|(_, is_set)| *is_set) {
            kind.check_inbox_setting(field)?;
        }
        Ok(())
    }

    /// Applies the change. An endpoint that is enabled, or moved to another URL, starts afresh: earlier
    /// failures no longer count against it.
    pub fn apply(&self, endpoint: &mut Endpoint) {
        let Self { url, event_types, headers, description, disabled_reason, policy, inbox, format } =
            self;
        set(&mut endpoint.url, url.as_ref());
        set(&mut endpoint.config.format, format.as_ref());
        set(&mut endpoint.event_types, event_types.as_ref());
        set(&mut endpoint.description, description.as_ref());
        set(&mut endpoint.disabled_reason, disabled_reason.as_ref());
        if let Some(headers) = headers {
            endpoint.headers = Ok(headers.clone());
        }
        policy.apply(&mut endpoint.policy);
        inbox.apply(&mut endpoint.config.inbox);
        if url.is_some() || *disabled_reason == Some(None) {
            endpoint.failing_since = None;
        }
    }
}

fn set<T: Clone>(field: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

impl Endpoint {
    /// Maximum bytes of a URL.
    pub const URL_BYTES_MAX: usize = 2048;
    /// Maximum bytes of an account's id.
    pub const ACCOUNT_BYTES_MAX: usize = 255;
    /// Endpoints of one account at most: what concerns an account is looked up endpoint by endpoint.
    pub const PER_ACCOUNT_MAX: u32 = 10;
    /// Maximum bytes of a description.
    pub const DESCRIPTION_BYTES_MAX: usize = 512;

    /// A new endpoint for every event, enabled.
    pub fn new(org_id: OrgId, url: Url, secret: SigningSecret, now: Timestamp) -> Self {
        Self {
            id: EndpointId::mint(now),
            org_id,
            url,
            event_types: EventTypeFilters::default(),
            description: None,
            secrets: Ok(Secrets::new(secret)),
            headers: Ok(CustomHeaders::default()),
            disabled_reason: None,
            created_at: now,
            updated_at: now,
            policy: DeliveryPolicy::default(),
            config: EndpointConfig::default(),
            kind: EndpointKind::Webhook,
            account_id: None,
            version: 0,
            cancel_before: None,
            failing_since: None,
            last_success_at: None,
            last_failure_at: None,
            default_inbox: false,
            last_read_at: None,
        }
    }

    /// Its secrets after a rotation to `new`; see [`Secrets::rotated`]. Without an overlap the earlier secrets
    /// need not be decrypted, so that an endpoint can recover from a lost encryption key.
    ///
    /// # Errors
    /// When there are too many earlier secrets, or they must keep signing and cannot be decrypted.
    pub fn rotated_secrets(
        &self,
        new: SigningSecret,
        overlap: Duration,
        now: Timestamp,
    ) -> Result<Secrets, SecretRotationRefusal> {
        match &self.secrets {
            Ok(secrets) => secrets
                .rotated(new, overlap, now)
                .map_err(|TooManySecrets| SecretRotationRefusal::TooManySecrets),
            Err(_) if overlap.is_zero() => Ok(Secrets::new(new)),
            Err(_) => Err(SecretRotationRefusal::Undecryptable),
        }
    }

    /// Checks the id of an account, by the rule of events: 1 to 255 bytes, no control characters.
    pub fn check_account(id: &str) -> Result<(), Violation> {
        if (1..=Self::ACCOUNT_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control) {
            return Ok(());
        }
        let rule = "must be 1 to 255 bytes without control characters";
        Err(Violation::new("account_id", "length", rule))
    }

    /// Checks a description: at most 512 bytes, no NUL.
    pub fn check_description(text: &str) -> Result<(), Violation> {
        if text.len() > Self::DESCRIPTION_BYTES_MAX || text.contains('\0') {
            return Err(Violation::new(
                "description",
                "length",
                "must be at most 512 bytes, without NUL",
            ));
        }
        Ok(())
    }
}
