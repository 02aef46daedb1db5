//! Commands on endpoints and their secrets.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand, value_parser};
use serde::Serialize;

use super::CliError;
use super::admin::{Common, all, existing, lines};
use crate::app::AdminError;
use crate::config::{DestinationConfig, parse_duration};
use crate::delivery::SsrfGuard;
use crate::domain::{
    CustomHeaders, DeliveryPolicy, Endpoint, EndpointId, EventTypeFilters, NewEndpoint, OrgId,
    PublicKey, RetrySchedule, SecretChoice, Secrets, SignatureScheme, SigningSecret,
    SigningSecretError, Timestamp, Violation,
};

#[derive(Subcommand, Debug)]
pub(super) enum EndpointCommand {
    /// Add an endpoint; the answer holds the secret its webhooks are signed with
    Add {
        /// The organisation whose events it gets
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// Where webhooks are posted
        #[arg(long)]
        url: String,
        /// Which events it gets, as in user.login,invoice.*; without it all
        #[arg(long, value_name = "FILTERS", default_value = "", value_parser = parse_filters)]
        event_types: EventTypeFilters,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        policy: DeliveryPolicyArgs,
        #[command(flatten)]
        secret: SecretArgs,
        // As the server must be told too.
        #[command(flatten)]
        destinations: DestinationConfig,
        #[command(flatten)]
        common: Common,
    },
    /// List an organisation's endpoints, newest first
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Replace an endpoint's secret; both sign until the overlap ends, then the new one alone
    RotateSecret {
        /// The organisation it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The endpoint
        id: EndpointId,
        /// How long the old secret goes on signing, 7d at most; 0s ends earlier ones, too
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
        overlap: Duration,
        #[command(flatten)]
        secret: SecretArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Encrypt every endpoint's secrets and headers by the first key of SECRETS_KEY
    Reencrypt(Common),
    /// Enable an endpoint; its parked deliveries are due at once
    Enable(OneEndpoint),
    /// Disable an endpoint; its deliveries are parked until it is enabled
    Disable(OneEndpoint),
    /// Remove an endpoint and cancel its pending deliveries
    Remove(OneEndpoint),
}

/// An endpoint of an organisation.
#[derive(Args, Debug)]
pub(super) struct OneEndpoint {
    /// The organisation it belongs to
    #[arg(long, value_name = "ID")]
    org: OrgId,
    /// The endpoint
    id: EndpointId,
    #[command(flatten)]
    common: Common,
}

/// How an endpoint's deliveries are made; what is left out follows the server's settings.
#[derive(Args, Debug)]
pub(super) struct DeliveryPolicyArgs {
    /// Webhooks in flight to it at once at most, 1 to 1000
    #[arg(long, value_name = "NUMBER", value_parser = parse_number(&DeliveryPolicy::CONCURRENCY))]
    max_concurrency: Option<u32>,
    /// Webhooks started in a second at most, 1 to 10000
    #[arg(long, value_name = "NUMBER", value_parser = parse_number(&DeliveryPolicy::RATE_LIMIT))]
    rate_limit_per_second: Option<u32>,
    /// Waits between the attempts of a delivery, as in 5s,5m,1h; at most 32, of at most 30d each
    #[arg(long, value_name = "DURATIONS", value_parser = parse_schedule)]
    retry_schedule: Option<RetrySchedule>,
    /// Deliver one at a time, in the order events were accepted
    #[arg(long)]
    ordered: bool,
}

impl From<DeliveryPolicyArgs> for DeliveryPolicy {
    fn from(args: DeliveryPolicyArgs) -> Self {
        let DeliveryPolicyArgs { max_concurrency, rate_limit_per_second, retry_schedule, ordered } =
            args;
        Self { max_concurrency, rate_limit_per_second, retry_schedule, ordered }
    }
}

fn parse_number(range: &RangeInclusive<u32>) -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(i64::from(*range.start())..=i64::from(*range.end()))
}

fn parse_schedule(text: &str) -> Result<RetrySchedule, String> {
    let waits: Vec<&str> = text.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    RetrySchedule::parse_waits(&waits).map_err(|faults| {
        faults.iter().map(|f| format!("{} {}", f.field, f.message)).collect::<Vec<_>>().join("; ")
    })
}

/// What a new secret is to be.
#[derive(Args, Debug)]
pub(super) struct SecretArgs {
    /// How webhooks are signed: hmac-sha256 or ed25519; without it as before, or hmac-sha256
    #[arg(long, value_name = "SCHEME")]
    signature: Option<SignatureScheme>,
    /// A secret of your own (whsec_… or whsk_…) instead of a new one
    #[arg(long, env = "ENDPOINT_SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
}

impl SecretArgs {
    /// Parsed here and not by clap, which would repeat a secret that is malformed.
    fn choice(&self) -> Result<SecretChoice, AdminError> {
        let malformed = |error: SigningSecretError| {
            AdminError::Invalid(Violation::new("secret", "format", error.to_string()))
        };
        let provided = self.secret.as_deref().map(str::parse).transpose().map_err(malformed)?;
        Ok(SecretChoice { scheme: self.signature, provided })
    }
}

fn parse_filters(text: &str) -> Result<EventTypeFilters, String> {
    text.parse().map_err(|violation: Violation| violation.message)
}

/// Does what a command on endpoints asks.
pub(super) async fn run(command: EndpointCommand) -> Result<(), CliError> {
    match command {
        EndpointCommand::Add {
            org,
            url,
            event_types,
            description,
            policy,
            secret,
            destinations,
            common,
        } => {
            let secret = secret.choice()?;
            let url = SsrfGuard::new(&destinations).parse_url(&url).map_err(AdminError::from)?;
            let policy = policy.into();
            let headers = CustomHeaders::default();
            let new = NewEndpoint { url, event_types, description, policy, secret, headers };
            let endpoint =
                existing(&common, async |admin| admin.add_endpoint(org, new).await).await?;
            common.output.write(&EndpointView::with_secret(&endpoint), endpoint_line)?;
        }
        EndpointCommand::RotateSecret { org, id, overlap, secret, common } => {
            let choice = secret.choice()?;
            let endpoint = existing(&common, async |admin| {
                admin.rotate_secret(org, id, choice, overlap).await
            })
            .await?;
            common.output.write(&EndpointView::with_secret(&endpoint), endpoint_line)?;
        }
        EndpointCommand::Reencrypt(common) => {
            if common.store.secrets_key.is_none() {
                return Err("SECRETS_KEY is not set: its first key is the one to encrypt by".into());
            }
            let all = existing(&common, async |admin| admin.reencrypt().await).await?;
            let (endpoints, encrypted, unreadable) = (all.endpoints, all.encrypted, all.unreadable);
            let answer = Reencrypted { endpoints, encrypted, unreadable: &unreadable };
            common.output.write(&answer, |a| {
                format!("{} of {} endpoints written anew", a.encrypted, a.endpoints)
            })?;
            if let Some(first) = unreadable.first() {
                let count = unreadable.len();
                let why = "SECRETS_KEY lacks their key, or the rows were changed";
                return Err(
                    format!("{count} endpoints cannot be read, {first} first: {why}").into()
                );
            }
        }
        EndpointCommand::List { org, common } => {
            let endpoints = existing(&common, async |admin| {
                all(async |page| admin.endpoints(org, page).await).await
            })
            .await?;
            let views: Vec<_> = endpoints.iter().map(EndpointView::new).collect();
            common.output.write(&views, |views| lines(views, endpoint_line))?;
        }
        EndpointCommand::Enable(one) => switch(one, true).await?,
        EndpointCommand::Disable(one) => switch(one, false).await?,
        EndpointCommand::Remove(OneEndpoint { org, id, common }) => {
            existing(&common, async |admin| admin.remove_endpoint(org, id).await).await?;
            common.output.write(&Removed { id, removed: true }, |r| format!("{} removed", r.id))?;
        }
    }
    Ok(())
}

async fn switch(one: OneEndpoint, enabled: bool) -> Result<(), CliError> {
    let OneEndpoint { org, id, common } = one;
    let switched = existing(&common, async |admin| admin.switch_endpoint(org, id, enabled).await);
    common.output.write(&EndpointView::new(&switched.await?), endpoint_line)?;
    Ok(())
}

#[derive(Serialize)]
struct Removed {
    id: EndpointId,
    removed: bool,
}

#[derive(Serialize)]
struct Reencrypted<'a> {
    endpoints: usize,
    encrypted: usize,
    unreadable: &'a [EndpointId],
}

#[derive(Serialize)]
struct EndpointView<'a> {
    id: EndpointId,
    org_id: OrgId,
    url: &'a str,
    event_types: &'a EventTypeFilters,
    description: Option<&'a str>,
    /// `null` where SECRETS_KEY does not read the secret.
    signature: Option<SignatureScheme>,
    /// `null` for HMAC.
    public_key: Option<PublicKey>,
    disabled_reason: Option<&'a str>,
    #[serde(flatten)]
    policy: &'a DeliveryPolicy,
    failing_since: Option<Timestamp>,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl<'a> EndpointView<'a> {
    fn new(endpoint: &'a Endpoint) -> Self {
        let secret = endpoint.secrets.as_ref().ok().map(Secrets::current);
        Self {
            id: endpoint.id,
            org_id: endpoint.org_id,
            url: endpoint.url.as_str(),
            event_types: &endpoint.event_types,
            description: endpoint.description.as_deref(),
            disabled_reason: endpoint.disabled_reason.as_deref(),
            signature: secret.map(SigningSecret::scheme),
            public_key: secret.and_then(SigningSecret::public_key),
            policy: &endpoint.policy,
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            secret: None,
        }
    }

    /// With the secret, where receivers verify with that.
    fn with_secret(endpoint: &'a Endpoint) -> Self {
        let view = Self::new(endpoint);
        let secret = endpoint.secrets.as_ref().ok().map(|secrets| secrets.current().reveal());
        Self { secret: secret.filter(|_| view.public_key.is_none()), ..view }
    }
}

fn endpoint_line(endpoint: &EndpointView<'_>) -> String {
    let events = endpoint.event_types.to_string();
    let events = if events.is_empty() { "*" } else { &events };
    let disabled =
        endpoint.disabled_reason.map_or(String::new(), |why| format!("  disabled: {why}"));
    let secret = endpoint.secret.as_ref().map_or(String::new(), |s| format!("\n\n  secret {s}"));
    let key = endpoint.public_key.map_or(String::new(), |key| format!("  public key: {key}"));
    format!("{}  {}  events: {events}{key}{disabled}{secret}", endpoint.id, endpoint.url)
}
