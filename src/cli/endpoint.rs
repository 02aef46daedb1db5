//! Commands on endpoints and their secrets.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand, value_parser};
use reqwest::Method;
use serde::Serialize;

use super::CliError;
use super::api::ServerArgs;
use super::endpoint_update::{self, EndpointUpdate};
use super::output::lines;
use super::store::{Common, all};
use crate::api::views::{
    EarlierSecretView, EndpointView, NewEndpointView, SecretView, SecretsView,
};
use crate::api::{Refusal, Subsystems, endpoints, orgs};
use crate::app::admin;
use crate::config::{DestinationConfig, parse_duration};
use crate::delivery::SsrfGuard;
use crate::domain::{
    Actor, CustomHeaders, DeliveryPolicy, EndpointChange, EndpointConfig, EndpointId, EndpointKind,
    EventTypeFilters, InboxSettings, NewEndpoint, OrgId, RetrySchedule, SecretChoice,
    SignatureScheme, SigningSecretError, Violation, WebhookFormat,
};

/// Why an endpoint is disabled that an operator disabled.
const DISABLED_BY_OPERATOR: &str = "disabled by the operator";

#[derive(Subcommand, Debug)]
pub(super) enum EndpointCommand {
    /// Add an endpoint; the answer holds its signing secret, unless it is an inbox
    Add {
        /// The organisation whose events it receives
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// How events reach it: webhook, or pull for an inbox from which they are fetched
        #[arg(long, value_name = "KIND", default_value = "webhook")]
        kind: EndpointKind,
        /// Where webhooks are posted; an inbox has none
        #[arg(long, required_if_eq("kind", "webhook"))]
        url: Option<String>,
        /// Event types that it receives, such as user.login,invoice.*; all if unset
        #[arg(long, value_name = "FILTERS", default_value = "", value_parser = parse_filters)]
        event_types: EventTypeFilters,
        /// A note for people
        #[arg(long)]
        description: Option<String>,
        /// The body of its webhooks, standard or cloudevents; standard if unset
        #[arg(long, value_name = "FORMAT")]
        format: Option<WebhookFormat>,
        /// The only account whose events it receives; all if unset
        #[arg(long, value_name = "ID")]
        account_id: Option<String>,
        #[command(flatten)]
        policy: DeliveryPolicyArgs,
        #[command(flatten)]
        inbox: InboxArgs,
        #[command(flatten)]
        secret: SecretArgs,
        // The server needs the same settings.
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
        /// How long the old secret keeps signing, at most 7d; 0s ends earlier ones, too
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
        overlap: Duration,
        #[command(flatten)]
        secret: SecretArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Encrypt every endpoint's secrets and headers with the first key of SECRETS_KEY
    Reencrypt(Common),
    /// Enable an endpoint; what was due meanwhile is sent
    Enable(OneEndpoint),
    /// Disable an endpoint; its deliveries wait until it is enabled
    Disable(OneEndpoint),
    /// Remove an endpoint and cancel its pending deliveries
    Remove(OneEndpoint),
    /// Show an endpoint as a server has it: its settings, breaker, backlog and last outcomes
    Show(ServedEndpoint),
    /// Have a server send a test event to an endpoint
    Test(ServedEndpoint),
    /// Change settings of an endpoint through a server
    Update(Box<EndpointUpdate>),
}

/// An endpoint, looked at through a server.
#[derive(Args, Debug)]
pub(super) struct ServedEndpoint {
    /// The endpoint
    id: EndpointId,
    #[command(flatten)]
    server: ServerArgs,
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

/// How an endpoint's deliveries are made; unset options follow the server's settings.
#[derive(Args, Debug)]
pub(super) struct DeliveryPolicyArgs {
    /// Webhooks in flight at most, 1 to 1000
    #[arg(long, value_name = "NUMBER", value_parser = parse_number(&DeliveryPolicy::CONCURRENCY))]
    max_concurrency: Option<u32>,
    /// Webhooks started per second at most, 1 to 10000
    #[arg(long, value_name = "NUMBER", value_parser = parse_number(&DeliveryPolicy::RATE_LIMIT))]
    rate_limit_per_second: Option<u32>,
    /// Waits between attempts, such as 5s,5m,1h; at most 32, each at most 30d
    #[arg(long, value_name = "DURATIONS", value_parser = parse_schedule)]
    retry_schedule: Option<RetrySchedule>,
    /// Deliver one webhook at a time, in the order in which events were accepted
    #[arg(long)]
    ordered: bool,
}

/// How an inbox gives events out.
#[derive(Args, Debug)]
pub(super) struct InboxArgs {
    /// Seconds for which a received event is hidden from other consumers of an inbox, 1 to 43200; 30 if unset
    #[arg(long, value_name = "SECONDS", value_parser = parse_number(&InboxSettings::VISIBILITY_SECONDS))]
    visibility_seconds: Option<u32>,
    /// How often an inbox gives an event out before it is a dead letter, 1 to 1000; 10 if unset
    #[arg(long, value_name = "NUMBER", value_parser = parse_number(&InboxSettings::MAX_RECEIVES))]
    max_receives: Option<u32>,
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

/// A new secret.
#[derive(Args, Debug)]
pub(super) struct SecretArgs {
    /// Signature scheme, hmac-sha256 or ed25519; unset keeps the current one, or hmac-sha256
    #[arg(long, value_name = "SCHEME")]
    signature: Option<SignatureScheme>,
    /// Your own secret (whsec_… or whsk_…); a new one is generated if unset
    #[arg(long, env = "ENDPOINT_SECRET", hide_env_values = true, value_name = "SECRET")]
    secret: Option<String>,
}

impl SecretArgs {
    /// Parsed here and not by clap, which would repeat a secret that is malformed.
    fn choice(&self) -> Result<SecretChoice, Refusal> {
        let malformed = |error: SigningSecretError| {
            Refusal::Invalid(Violation::new("secret", "format", error.to_string()))
        };
        let provided = self.secret.as_deref().map(str::parse).transpose().map_err(malformed)?;
        Ok(SecretChoice { scheme: self.signature, provided })
    }
}

fn parse_filters(text: &str) -> Result<EventTypeFilters, String> {
    text.parse().map_err(|violation: Violation| violation.message)
}

/// Runs a command on endpoints.
pub(super) async fn run(command: EndpointCommand) -> Result<(), CliError> {
    match command {
        EndpointCommand::Add {
            org,
            kind,
            url,
            event_types,
            description,
            format,
            account_id,
            policy,
            inbox,
            secret,
            destinations,
            common,
        } => {
            let secret = secret.choice()?;
            let guard = SsrfGuard::new(&destinations);
            let url = url.as_deref().map(|url| guard.parse_url(url)).transpose();
            let url = url.map_err(Refusal::from)?;
            let policy = policy.into();
            let headers = CustomHeaders::default();
            let InboxArgs { visibility_seconds, max_receives } = inbox;
            let config = EndpointConfig::new(
                InboxSettings { visibility_seconds, max_receives },
                format.unwrap_or_default(),
            );
            let new = NewEndpoint {
                kind,
                url,
                event_types,
                description,
                policy,
                config,
                secret,
                headers,
                account_id,
            };
            let add = async |s: &Subsystems| endpoints::create(s, org, new, &Actor::CLI).await;
            let endpoint = common.with_keys(add).await?;
            common.output.write(&NewEndpointView::from(&endpoint), new_endpoint_line)?;
        }
        EndpointCommand::RotateSecret { org, id, overlap, secret, common } => {
            let choice = secret.choice()?;
            let rotate = async |s: &Subsystems| {
                endpoints::rotate_secret(s, org, id, choice, overlap, &Actor::CLI).await
            };
            common.output.write(&common.with_keys(rotate).await?, secrets_line)?;
        }
        EndpointCommand::Reencrypt(common) => reencrypt(&common).await?,
        EndpointCommand::List { org, common } => {
            let list = async |s: &Subsystems| {
                orgs::existing(s, org).await?;
                all(async |page| endpoints::list(s, org, None, page).await).await
            };
            let views: Vec<EndpointView> =
                common.existing(list).await?.iter().map(EndpointView::from).collect();
            common.output.write(&views, |views| lines(views, endpoint_line))?;
        }
        EndpointCommand::Enable(one) => switch(one, true).await?,
        EndpointCommand::Disable(one) => switch(one, false).await?,
        EndpointCommand::Remove(OneEndpoint { org, id, common }) => {
            common.existing(async |s| endpoints::delete(s, org, id, &Actor::CLI).await).await?;
            common.output.write(&Removed { id, removed: true }, |r| format!("{} removed", r.id))?;
        }
        EndpointCommand::Show(ServedEndpoint { id, server }) => {
            server.print(Method::GET, &format!("/api/endpoints/{id}"), None).await?;
        }
        EndpointCommand::Test(ServedEndpoint { id, server }) => {
            server.print(Method::POST, &format!("/api/endpoints/{id}/test"), None).await?;
        }
        EndpointCommand::Update(update) => endpoint_update::run(*update).await?,
    }
    Ok(())
}

async fn reencrypt(common: &Common) -> Result<(), CliError> {
    if common.store.secrets_key.is_none() {
        return Err("SECRETS_KEY is not set: its first key is the one to encrypt with".into());
    }
    let all = admin::reencrypt(&common.store).await?;
    let (endpoints, encrypted, unreadable) = (all.endpoints, all.encrypted, all.unreadable);
    let answer = Reencrypted { endpoints, encrypted, unreadable: &unreadable };
    common
        .output
        .write(&answer, |a| format!("{} of {} endpoints re-encrypted", a.encrypted, a.endpoints))?;
    if let Some(first) = unreadable.first() {
        let count = unreadable.len();
        let why = "SECRETS_KEY lacks their key, or the rows were changed";
        return Err(format!("{count} endpoints cannot be read, {first} first: {why}").into());
    }
    Ok(())
}

/// Enables or disables an endpoint.
async fn switch(one: OneEndpoint, enabled: bool) -> Result<(), CliError> {
    let OneEndpoint { org, id, common } = one;
    let reason = (!enabled).then(|| DISABLED_BY_OPERATOR.to_owned());
    let change = EndpointChange { disabled_reason: Some(reason), ..EndpointChange::default() };
    let switch = async |s: &Subsystems| {
        let changed = endpoints::change(s, org, id, &change, &Actor::CLI).await?;
        endpoints::detail(s, &changed).await
    };
    let endpoint = common.existing(switch).await?;
    common.output.write(&endpoint, |endpoint| endpoint_line(&endpoint.endpoint))?;
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

fn endpoint_line(endpoint: &EndpointView) -> String {
    let events = endpoint.event_types.to_string();
    let events = if events.is_empty() { "*" } else { &events };
    let disabled = endpoint.disabled_reason.as_ref();
    let disabled = disabled.map_or(String::new(), |why| format!("  disabled: {why}"));
    let key = endpoint.public_key.map_or(String::new(), |key| format!("  public key: {key}"));
    let url = endpoint.url.as_deref().unwrap_or("inbox");
    format!("{}  {url}  events: {events}{key}{disabled}", endpoint.id)
}

fn new_endpoint_line(new: &NewEndpointView) -> String {
    let secret = new.secret.as_ref().map_or(String::new(), |s| format!("\n\n  secret {s}"));
    format!("{}{secret}", endpoint_line(&new.endpoint.endpoint))
}

fn secrets_line(secrets: &SecretsView) -> String {
    let SecretView { signature, secret, public_key } = &secrets.current;
    let key = public_key.map_or(String::new(), |key| format!("  public key: {key}"));
    let secret = secret.as_ref().map_or(String::new(), |s| format!("\n\n  secret {s}"));
    let earlier: String = secrets.earlier.iter().map(earlier_line).collect();
    format!("{}  {signature}{key}{earlier}{secret}", secrets.id)
}

fn earlier_line(earlier: &EarlierSecretView) -> String {
    format!("\n  an earlier secret signs until {}", earlier.until)
}
