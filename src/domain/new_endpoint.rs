//! A new endpoint: everything its owner chooses, checked, before it is stored.
//!
//! The HTTP API and the command line both fill in a `NewEndpoint`, so an endpoint is made from the same
//! fields in one place.

use url::Url;

use super::{
    CustomHeaders, DeliveryPolicy, Endpoint, EndpointConfig, EndpointId, EndpointKind,
    EventTypeFilters, OrgId, SecretChoice, Secrets, SignatureScheme, Timestamp, Violation,
};

/// What an owner chooses for a new endpoint.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    /// How events reach it.
    pub kind: EndpointKind,
    /// Where webhooks are posted; `None` of an inbox.
    pub url: Option<Url>,
    /// Which events it receives; an empty list means every event that tenants post.
    pub event_types: EventTypeFilters,
    /// Free text by its owner.
    pub description: Option<String>,
    /// How its deliveries are made.
    pub policy: DeliveryPolicy,
    /// Its further settings.
    pub config: EndpointConfig,
    /// The secret that signs its webhooks, or how to generate one.
    pub secret: SecretChoice,
    /// Headers sent with its webhooks.
    pub headers: CustomHeaders,
    /// The only account whose events it receives; `None` for all.
    pub account_id: Option<String>,
}

impl NewEndpoint {
    /// A webhook endpoint for every event, with a generated secret and the server's settings.
    pub fn new(url: Url) -> Self {
        Self { kind: EndpointKind::Webhook, url: Some(url), ..Self::inbox() }
    }

    /// An inbox for every event.
    pub fn inbox() -> Self {
        Self {
            kind: EndpointKind::Pull,
            url: None,
            event_types: EventTypeFilters::default(),
            description: None,
            policy: DeliveryPolicy::default(),
            config: EndpointConfig::default(),
            secret: SecretChoice::default(),
            headers: CustomHeaders::default(),
            account_id: None,
        }
    }

    /// Checks the rules of the fields whose types allow more than an endpoint may have.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self) -> Result<(), Violation> {
        self.check_kind()?;
        self.secret.check()?;
        self.description.as_deref().map_or(Ok(()), Endpoint::check_description)?;
        self.account_id.as_deref().map_or(Ok(()), Endpoint::check_account)?;
        self.config.inbox.check()?;
        self.policy.check()
    }

    /// Checks that an endpoint of its kind has what is set.
    ///
    /// # Errors
    /// The first violation.
    pub fn check_kind(&self) -> Result<(), Violation> {
        let Self {
            kind,
            url,
            event_types: _,
            description: _,
            policy,
            config,
            secret,
            headers,
            account_id: _,
        } = self;
        if *kind == EndpointKind::Webhook && url.is_none() {
            return Err(Violation::new("url", "required", "is required"));
        }
        let DeliveryPolicy { max_concurrency, rate_limit_per_second, retry_schedule, ordered: _ } =
            policy;
        let of_webhooks = [
            ("url", url.is_some()),
            ("signature", secret.scheme.is_some()),
            ("secret", secret.provided.is_some()),
            ("headers", headers.iter().next().is_some()),
            ("max_concurrency", max_concurrency.is_some()),
            ("rate_limit_per_second", rate_limit_per_second.is_some()),
            ("retry_schedule", retry_schedule.is_some()),
            ("format", !config.format.is_standard()),
        ];
        for (field, _) in of_webhooks.into_iter().filter(|(_, is_set)| *is_set) {
            kind.check_webhook_setting(field)?;
        }
        config.inbox.names_set().try_for_each(|field| kind.check_inbox_setting(field))
    }

    /// The endpoint, enabled, with a new id and the chosen or a generated secret.
    ///
    /// # Errors
    /// When the system has no random source for a secret.
    pub fn into_endpoint(
        self,
        org_id: OrgId,
        now: Timestamp,
    ) -> Result<Endpoint, getrandom::Error> {
        let Self {
            kind,
            url,
            event_types,
            description,
            policy,
            config,
            secret,
            headers,
            account_id,
        } = self;
        let no_url = || Url::parse(EndpointKind::NO_URL).map_err(|_| getrandom::Error::UNEXPECTED);
        let last_read_at = (kind == EndpointKind::Pull).then_some(now);
        Ok(Endpoint {
            id: EndpointId::mint(now),
            org_id,
            url: url.map_or_else(no_url, Ok)?,
            event_types,
            description,
            secrets: Ok(Secrets::new(secret.secret(SignatureScheme::default())?)),
            headers: Ok(headers),
            disabled_reason: None,
            created_at: now,
            updated_at: now,
            policy,
            config,
            kind,
            account_id,
            version: 0,
            cancel_before: None,
            failing_since: None,
            last_success_at: None,
            last_failure_at: None,
            default_inbox: false,
            last_read_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InboxSettings, SigningSecret, WebhookFormat};
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1);

    fn new_endpoint() -> NewEndpoint {
        NewEndpoint::new("https://example.com/hook".parse().unwrap())
    }

    #[test]
    fn endpoint_has_what_was_chosen_and_is_enabled() {
        let org = OrgId::mint(NOW);
        let secret = SigningSecret::generate().unwrap();
        let new = NewEndpoint {
            event_types: "user.*".parse().unwrap(),
            description: Some("CRM".to_owned()),
            secret: SecretChoice { scheme: None, provided: Some(secret.clone()) },
            ..new_endpoint()
        };
        let endpoint = new.into_endpoint(org, NOW).unwrap();
        assert_eq!((endpoint.org_id, endpoint.created_at), (org, NOW));
        assert_eq!(endpoint.event_types.to_string(), "user.*");
        assert_eq!(endpoint.description.as_deref(), Some("CRM"));
        assert_eq!(endpoint.secrets.unwrap().current(), &secret);
        assert_eq!(endpoint.disabled_reason, None);
    }

    #[test]
    fn settings_of_the_other_kind_are_refused() {
        let inbox = InboxSettings { max_receives: Some(3), ..InboxSettings::default() };
        let config = EndpointConfig::new(inbox, WebhookFormat::default());
        let webhook = NewEndpoint { config: config.clone(), ..new_endpoint() };
        assert_eq!(webhook.check().unwrap_err().field, "max_receives");
        let pull = NewEndpoint { config, ..NewEndpoint::inbox() };
        assert_eq!(pull.check(), Ok(()));
        let endpoint = pull.clone().into_endpoint(OrgId::mint(NOW), NOW).unwrap();
        assert_eq!((endpoint.url.as_str(), endpoint.last_read_at), ("inbox:", Some(NOW)));
        let url = new_endpoint().url;
        let policy = DeliveryPolicy { max_concurrency: Some(1), ..DeliveryPolicy::default() };
        let secret = SecretChoice { scheme: Some(SignatureScheme::default()), provided: None };
        for (new, field) in [
            (NewEndpoint { url, ..pull.clone() }, "url"),
            (NewEndpoint { policy, ..pull.clone() }, "max_concurrency"),
            (NewEndpoint { secret, ..pull }, "signature"),
        ] {
            let violation = new.check().unwrap_err();
            assert_eq!((violation.field.as_str(), violation.code), (field, "kind"));
        }
        let nowhere = NewEndpoint { url: None, ..new_endpoint() };
        assert_eq!(nowhere.check().unwrap_err().code, "required");
    }

    #[test]
    fn fields_that_break_a_rule_are_violations() {
        assert_eq!(new_endpoint().check(), Ok(()));
        let long = NewEndpoint { description: Some("x".repeat(513)), ..new_endpoint() };
        let idle = DeliveryPolicy { max_concurrency: Some(0), ..DeliveryPolicy::default() };
        let idle = NewEndpoint { policy: idle, ..new_endpoint() };
        for (new, field) in [(long, "description"), (idle, "max_concurrency")] {
            assert_eq!(new.check().unwrap_err().field, field);
        }
    }
}
