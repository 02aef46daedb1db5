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
    /// Where webhooks are posted.
    pub url: Url,
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
}

impl NewEndpoint {
    /// An endpoint for every event, with a generated secret and the server's settings.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            event_types: EventTypeFilters::default(),
            description: None,
            policy: DeliveryPolicy::default(),
            config: EndpointConfig::default(),
            secret: SecretChoice::default(),
            headers: CustomHeaders::default(),
        }
    }

    /// Checks the rules of the fields whose types allow more than an endpoint may have.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(&self) -> Result<(), Violation> {
        self.secret.check()?;
        self.description.as_deref().map_or(Ok(()), Endpoint::check_description)?;
        self.policy.check()
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
        let Self { url, event_types, description, policy, config, secret, headers } = self;
        Ok(Endpoint {
            id: EndpointId::mint(now),
            org_id,
            url,
            event_types,
            description,
            secrets: Ok(Secrets::new(secret.secret(SignatureScheme::default())?)),
            headers: Ok(headers),
            disabled_reason: None,
            created_at: now,
            updated_at: now,
            policy,
            config,
            kind: EndpointKind::Webhook,
            account_id: None,
            version: 0,
            cancel_before: None,
            failing_since: None,
            last_success_at: None,
            last_failure_at: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::SigningSecret;
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
