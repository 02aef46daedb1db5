//! Endpoints: the receivers of a tenant's webhooks, and which events they subscribe to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::event::EventTypeError;
use super::{
    CustomHeaders, DeliveryPolicy, DeliveryPolicyChange, EndpointId, EventType, OrgId, Secrets,
    SigningSecret, Timestamp, TooManySecrets, Violation,
};

/// A receiver of webhooks.
///
/// ```text
///              the owner disables it, it answers 410 Gone, or every attempt
///              has failed for longer than DISABLE_AFTER
///  ┌─────────┐ ───────────────────────────────────────────────────────▶ ┌──────────┐
///  │ enabled │                                                          │ disabled │
///  └─────────┘ ◀─────────────────────────────────────────────────────── └──────────┘
///       │                the owner enables it: parked                        │
///       │                deliveries are due again                            │
///       └──────────────▶ deleted: pending deliveries are cancelled ◀─────────┘
/// ```
/// A disabled endpoint parks its pending deliveries, and new events create no deliveries to it. Suspending an
/// organisation has the same effect on all its endpoints, but changes none of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// The organisation it belongs to.
    pub org_id: OrgId,
    /// Where webhooks are posted.
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
    /// Since when every attempt has failed; `None` if the last one succeeded, or before the first.
    pub failing_since: Option<Timestamp>,
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
}

impl EndpointChange {
    /// Applies the change. An endpoint that is enabled, or moved to another URL, starts afresh: earlier
    /// failures no longer count against it.
    pub fn apply(&self, endpoint: &mut Endpoint) {
        let Self { url, event_types, headers, description, disabled_reason, policy } = self;
        set(&mut endpoint.url, url.as_ref());
        set(&mut endpoint.event_types, event_types.as_ref());
        set(&mut endpoint.description, description.as_ref());
        set(&mut endpoint.disabled_reason, disabled_reason.as_ref());
        if let Some(headers) = headers {
            endpoint.headers = Ok(headers.clone());
        }
        policy.apply(&mut endpoint.policy);
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
    /// Maximum bytes of a description.
    pub const DESCRIPTION_BYTES_MAX: usize = 512;
    /// Maximum filters.
    pub const EVENT_TYPES_MAX: usize = 100;

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
            failing_since: None,
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

    /// Parses a URL and checks its text: an absolute `https` URL (`http` only if private endpoints are
    /// allowed), with a host, without a user name, password, fragment or port 0. The SSRF guard of `delivery`
    /// checks its address.
    pub fn parse_url(text: &str, allow_http: bool) -> Result<Url, Violation> {
        let broken = |code, message: &str| Err(Violation::new("url", code, message));
        if text.len() > Self::URL_BYTES_MAX {
            return broken("length", "must be at most 2048 bytes");
        }
        let Ok(url) = Url::parse(text) else {
            return broken("format", "must be an absolute URL such as https://example.com/hooks");
        };
        match url.scheme() {
            "https" => {}
            "http" if allow_http => {}
            "http" => {
                return broken("scheme", "must be https; http needs ALLOW_PRIVATE_ENDPOINTS=true");
            }
            _ => return broken("scheme", "must be https"),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return broken("format", "must name a host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return broken("format", "must not carry a user name or password");
        }
        if url.port() == Some(0) {
            return broken("port", "must not name port 0, which nothing can listen on");
        }
        if url.fragment().is_some() {
            return broken("format", "must not carry a fragment");
        }
        Ok(url)
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

/// An event type filter: `user.login`, `user.*` or `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventTypeFilter {
    /// Every event that tenants post.
    All,
    /// Events whose type starts with this prefix, which ends in a dot.
    Prefix(String),
    /// Events of exactly this type.
    Exact(EventType),
}

impl EventTypeFilter {
    /// Whether events of this type match. `*` matches every event that tenants post; operational events match
    /// only a filter that names them.
    pub fn matches(&self, event_type: &str) -> bool {
        match self {
            Self::All => !EventType::is_operational(event_type),
            Self::Prefix(prefix) => event_type.starts_with(prefix.as_str()),
            Self::Exact(exact) => exact.as_str() == event_type,
        }
    }
}

impl FromStr for EventTypeFilter {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Ok(Self::All);
        }
        match text.strip_suffix(".*") {
            Some(prefix) if EventType::is_valid(prefix) => Ok(Self::Prefix(format!("{prefix}."))),
            _ => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for EventTypeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Exact(exact) => exact.fmt(f),
        }
    }
}

impl Serialize for EventTypeFilter {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The filters of an endpoint. An event matches if any filter does; without filters, every event that tenants
/// post matches.
///
/// The store keeps them as one text, separated by commas, which no filter can contain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct EventTypeFilters(Vec<EventTypeFilter>);

impl EventTypeFilters {
    /// Parses a list of filters.
    ///
    /// # Errors
    /// When a filter is malformed or there are more than 100.
    pub fn parse<S: AsRef<str>>(filters: &[S]) -> Result<Self, Violation> {
        if filters.len() > Endpoint::EVENT_TYPES_MAX {
            return Err(Violation::new("event_types", "length", "must be at most 100 filters"));
        }
        let parse = |(index, text): (usize, &S)| {
            text.as_ref().parse().map_err(|_| {
                let rule =
                    "must be an event type such as user.login, a prefix such as user.*, or *";
                Violation::new(format!("event_types[{index}]"), "format", rule)
            })
        };
        filters.iter().enumerate().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether events of this type match.
    pub fn matches(&self, event_type: &str) -> bool {
        let all = [EventTypeFilter::All];
        let filters = if self.0.is_empty() { &all[..] } else { &self.0 };
        filters.iter().any(|filter| filter.matches(event_type))
    }
}

impl FromStr for EventTypeFilters {
    type Err = Violation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let filters: Vec<&str> = text.split(',').map(str::trim).filter(|f| !f.is_empty()).collect();
        Self::parse(&filters)
    }
}

impl fmt::Display for EventTypeFilters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, filter) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            filter.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_one_type_a_prefix_or_everything() {
        let filters: EventTypeFilters = "user.login, invoice.*".parse().unwrap();
        assert!(filters.matches("user.login"));
        assert!(filters.matches("invoice.paid"));
        assert!(filters.matches("invoice.line.added"));
        assert!(!filters.matches("user.login.failed"));
        assert!(!filters.matches("invoice"));
        assert!(!filters.matches("invoices.paid"));
        assert!(EventTypeFilters::default().matches("anything"));
        assert!("*".parse::<EventTypeFilters>().unwrap().matches("anything"));
        assert_eq!(filters.to_string(), "user.login,invoice.*");
    }

    #[test]
    fn operational_events_match_only_filters_that_name_them() {
        let disabled = "hookgate.endpoint.disabled";
        for named in ["hookgate.*", "*,hookgate.endpoint.*", disabled] {
            assert!(named.parse::<EventTypeFilters>().unwrap().matches(disabled), "{named}");
        }
        for other in ["", "*", "endpoint.*", "hookgate.delivery.exhausted"] {
            assert!(!other.parse::<EventTypeFilters>().unwrap().matches(disabled), "{other}");
        }
        assert!(EventTypeFilters::default().matches("hookgates.own"));
    }

    #[test]
    fn malformed_filter_is_named_by_its_index() {
        let violation = EventTypeFilters::parse(&["ok", "not ok"]).unwrap_err();
        assert_eq!(violation.field, "event_types[1]");
    }

    #[test]
    fn urls_must_be_https_without_credentials() {
        assert!(Endpoint::parse_url("https://example.com/hook?x=1", false).is_ok());
        assert!(Endpoint::parse_url("http://127.0.0.1:9000/", true).is_ok());
        let refused = [
            "http://example.com",
            "ftp://example.com",
            "example.com",
            "/hook",
            "https://user@example.com",
            "https://example.com/#top",
        ];
        for url in refused {
            assert!(Endpoint::parse_url(url, false).is_err(), "{url}");
        }
    }
}
