//! Commands on the store: `migrate`, `org`, `key`, `endpoint`.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::CliError;
use super::output::Output;
use crate::app::{Admin, AdminError};
use crate::auth::IssuedKey;
use crate::config::{StoreConfig, parse_duration};
use crate::domain::{
    ApiKey, ApiKeyId, Endpoint, EndpointId, EventTypeFilters, Org, OrgId, Pacing, Page,
    PageRequest, RetrySchedule, Role, Timestamp,
};

/// What every command on the store takes.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    // Last, since its help heading holds for what comes after it.
    #[command(flatten)]
    store: StoreConfig,
}

#[derive(Subcommand, Debug)]
pub(super) enum MigrateCommand {
    /// Apply every migration that is missing
    Up(Common),
    /// Take the newest migration back; data that only it can hold is lost
    Down(Common),
    /// List the migrations and whether each is applied
    Status(Common),
}

#[derive(Subcommand, Debug)]
pub(super) enum OrgCommand {
    /// Create an organisation
    Create {
        /// What people call it
        #[arg(long)]
        name: String,
        /// Events a minute it may send; without it the server's RATE_LIMIT_PER_MINUTE counts
        #[arg(long, value_name = "EVENTS")]
        rate_limit_per_minute: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// List all organisations, newest first
    List(Common),
}

#[derive(Subcommand, Debug)]
pub(super) enum KeyCommand {
    /// Create an API key; it is shown this once
    #[command(group = ArgGroup::new("owner").required(true))]
    Create {
        /// The organisation it acts for
        #[arg(long, value_name = "ID", group = "owner")]
        org: Option<OrgId>,
        /// Make an operator's key: it manages organisations and keys and reads no tenant's events
        #[arg(long, group = "owner")]
        operator: bool,
        /// What people call it
        #[arg(long)]
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// List keys, newest first
    List {
        /// Of this organisation only
        #[arg(long, value_name = "ID")]
        org: Option<OrgId>,
        #[command(flatten)]
        common: Common,
    },
    /// Replace a key by a new one, which is shown this once
    Rotate {
        /// The key's id: the 32 digits between its underscores, with or without hyphens
        id: ApiKeyId,
        /// How long the old key goes on working
        #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
        grace: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// Make a key expire now
    Revoke {
        /// The key's id: the 32 digits between its underscores, with or without hyphens
        id: ApiKeyId,
        #[command(flatten)]
        common: Common,
    },
}

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
        pacing: PacingArgs,
        /// Allow an http:// URL, as the server must be told too
        #[arg(long, env = "ALLOW_PRIVATE_ENDPOINTS", num_args = 0..=1, require_equals = true,
              default_value_t = false, default_missing_value = "true", value_name = "BOOL",
              action = clap::ArgAction::Set)]
        allow_private_endpoints: bool,
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
    /// Remove an endpoint and cancel its pending deliveries
    Remove {
        /// The organisation it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The endpoint
        id: EndpointId,
        #[command(flatten)]
        common: Common,
    },
}

/// How an endpoint's deliveries are made; what is left out follows the server's settings.
#[derive(Args, Debug)]
pub(super) struct PacingArgs {
    /// Webhooks under way to it at once at the most, 1 to 1000
    #[arg(long, value_name = "NUMBER")]
    max_concurrency: Option<u32>,
    /// Webhooks started in a second at the most, 1 to 10000
    #[arg(long, value_name = "NUMBER")]
    rate_limit_per_second: Option<u32>,
    /// Waits between the attempts of a delivery, as in 5s,5m,1h; at most 32, of at most 30d each
    #[arg(long, value_name = "DURATIONS", value_parser = parse_schedule)]
    retry_schedule: Option<RetrySchedule>,
    /// Deliver one at a time, in the order events were accepted
    #[arg(long)]
    ordered: bool,
}

impl From<PacingArgs> for Pacing {
    fn from(args: PacingArgs) -> Self {
        let PacingArgs { max_concurrency, rate_limit_per_second, retry_schedule, ordered } = args;
        Self { max_concurrency, rate_limit_per_second, retry_schedule, ordered }
    }
}

fn parse_schedule(text: &str) -> Result<RetrySchedule, String> {
    let waits: Vec<&str> = text.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    RetrySchedule::parse_waits(&waits).map_err(|faults| {
        faults.iter().map(|f| format!("{} {}", f.field, f.message)).collect::<Vec<_>>().join("; ")
    })
}

fn parse_filters(text: &str) -> Result<EventTypeFilters, String> {
    text.parse().map_err(|violation: crate::domain::Violation| violation.message)
}

pub(super) async fn migrate(command: MigrateCommand) -> Result<(), CliError> {
    match command {
        MigrateCommand::Up(common) => {
            let applied = closing(Admin::open_as_it_is(&common.store).await?, async |admin| {
                admin.migrate_up().await
            })
            .await?;
            let answer = Applied { applied };
            common.output.write(&answer, |a| format!("{} migrations applied", a.applied))?;
        }
        MigrateCommand::Down(common) => {
            let answer = TakenBack { version: Admin::migrate_down(&common.store).await? };
            common.output.write(&answer, |a| match a.version {
                Some(version) => format!("migration {version} taken back"),
                None => "no migration is applied".to_owned(),
            })?;
        }
        MigrateCommand::Status(common) => {
            common.output.write(&Admin::status(&common.store).await?, |all| {
                lines(all, |m| {
                    let mark = if m.applied { "applied" } else { "missing" };
                    format!("{:>4}  {mark}  {}", m.version, m.name)
                })
            })?;
        }
    }
    Ok(())
}

pub(super) async fn org(command: OrgCommand) -> Result<(), CliError> {
    match command {
        OrgCommand::Create { name, rate_limit_per_minute, common } => {
            let create = async |admin: &Admin| admin.create_org(name, rate_limit_per_minute).await;
            let org = set_up(&common, create).await?;
            common.output.write(&org, org_line)?;
        }
        OrgCommand::List(common) => {
            let orgs =
                existing(&common, async |admin| all(async |page| admin.orgs(page).await).await)
                    .await?;
            common.output.write(&orgs, |orgs| lines(orgs, org_line))?;
        }
    }
    Ok(())
}

pub(super) async fn key(command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::Create { org, operator: _, name, common } => {
            let issued = if let Some(tenant) = org.map(Role::Tenant) {
                existing(&common, async |admin| admin.create_key(tenant, name).await).await?
            } else {
                // Clap sees to it that --operator was given.
                let operator = Role::Operator;
                set_up(&common, async |admin| admin.create_key(operator, name).await).await?
            };
            common.output.write(&IssuedKeyView::new(&issued), issued_key_line)?;
        }
        KeyCommand::List { org, common } => {
            let keys = existing(&common, async |admin| {
                all(async |page| admin.keys(org, page).await).await
            })
            .await?;
            let keys: Vec<KeyView> = keys.iter().map(KeyView::new).collect();
            common.output.write(&keys, |keys| lines(keys, key_line))?;
        }
        KeyCommand::Rotate { id, grace, common } => {
            let issued = existing(&common, async |admin| admin.rotate_key(id, grace).await).await?;
            common.output.write(&IssuedKeyView::new(&issued), issued_key_line)?;
        }
        KeyCommand::Revoke { id, common } => {
            existing(&common, async |admin| admin.revoke_key(id).await).await?;
            common.output.write(&Revoked { id, revoked: true }, |r| format!("{} revoked", r.id))?;
        }
    }
    Ok(())
}

pub(super) async fn endpoint(command: EndpointCommand) -> Result<(), CliError> {
    match command {
        EndpointCommand::Add {
            org,
            url,
            event_types,
            description,
            pacing,
            allow_private_endpoints,
            common,
        } => {
            let endpoint = existing(&common, async |admin| {
                let allow_private = allow_private_endpoints;
                let pacing = pacing.into();
                admin.add_endpoint(org, &url, event_types, description, pacing, allow_private).await
            })
            .await?;
            let secret = Some(endpoint.secret.reveal());
            common.output.write(&EndpointView::new(&endpoint, secret), endpoint_line)?;
        }
        EndpointCommand::List { org, common } => {
            let endpoints = existing(&common, async |admin| {
                all(async |page| admin.endpoints(org, page).await).await
            })
            .await?;
            let views: Vec<_> = endpoints.iter().map(|e| EndpointView::new(e, None)).collect();
            common.output.write(&views, |views| lines(views, endpoint_line))?;
        }
        EndpointCommand::Remove { org, id, common } => {
            existing(&common, async |admin| admin.remove_endpoint(org, id).await).await?;
            common.output.write(&Removed { id, removed: true }, |r| format!("{} removed", r.id))?;
        }
    }
    Ok(())
}

#[derive(Serialize)]
struct Applied {
    applied: usize,
}

#[derive(Serialize)]
struct TakenBack {
    version: Option<i64>,
}

#[derive(Serialize)]
struct Revoked {
    id: ApiKeyId,
    revoked: bool,
}

#[derive(Serialize)]
struct Removed {
    id: EndpointId,
    removed: bool,
}

#[derive(Serialize)]
struct KeyView<'a> {
    id: ApiKeyId,
    /// `null` for an operator's key.
    org_id: Option<OrgId>,
    name: &'a str,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

#[derive(Serialize)]
struct IssuedKeyView<'a> {
    key: &'a str,
    #[serde(flatten)]
    record: KeyView<'a>,
}

#[derive(Serialize)]
struct EndpointView<'a> {
    id: EndpointId,
    org_id: OrgId,
    url: &'a str,
    event_types: &'a EventTypeFilters,
    description: Option<&'a str>,
    disabled_reason: Option<&'a str>,
    #[serde(flatten)]
    pacing: &'a Pacing,
    failing_since: Option<Timestamp>,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl<'a> KeyView<'a> {
    fn new(key: &'a ApiKey) -> Self {
        Self {
            id: key.id,
            org_id: key.role.org_id(),
            name: &key.name,
            created_at: key.created_at,
            expires_at: key.expires_at,
        }
    }
}

impl<'a> IssuedKeyView<'a> {
    fn new(issued: &'a IssuedKey) -> Self {
        Self { key: issued.key.reveal(), record: KeyView::new(&issued.record) }
    }
}

impl<'a> EndpointView<'a> {
    fn new(endpoint: &'a Endpoint, secret: Option<String>) -> Self {
        Self {
            id: endpoint.id,
            org_id: endpoint.org_id,
            url: endpoint.url.as_str(),
            event_types: &endpoint.event_types,
            description: endpoint.description.as_deref(),
            disabled_reason: endpoint.disabled_reason.as_deref(),
            pacing: &endpoint.pacing,
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            secret,
        }
    }
}

fn org_line(org: &Org) -> String {
    let limit = org.rate_limit_per_minute.map_or("default".to_owned(), |limit| limit.to_string());
    format!("{}  {}  events/minute: {limit}", org.id, org.name)
}

fn key_line(key: &KeyView<'_>) -> String {
    let owner = key.org_id.map_or("operator".to_owned(), |org| format!("organisation {org}"));
    let end = key.expires_at.map_or("never".to_owned(), |end| end.to_string());
    format!("{}  {}  {owner}  expires: {end}", key.id, key.name)
}

fn issued_key_line(issued: &IssuedKeyView<'_>) -> String {
    format!("{}\n\n  {}\n\nThe key is shown this once.", key_line(&issued.record), issued.key)
}

fn endpoint_line(endpoint: &EndpointView<'_>) -> String {
    let events = endpoint.event_types.to_string();
    let events = if events.is_empty() { "*" } else { &events };
    let disabled =
        endpoint.disabled_reason.map_or(String::new(), |why| format!("  disabled: {why}"));
    let secret = endpoint.secret.as_ref().map_or(String::new(), |s| format!("\n\n  secret {s}"));
    format!("{}  {}  events: {events}{disabled}{secret}", endpoint.id, endpoint.url)
}

fn lines<T>(all: &[T], line: impl Fn(&T) -> String) -> String {
    if all.is_empty() {
        return "none".to_owned();
    }
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Works with a store that is created and migrated when it has to be.
async fn set_up<T>(
    common: &Common,
    work: impl AsyncFnOnce(&Admin) -> Result<T, AdminError>,
) -> Result<T, AdminError> {
    closing(Admin::open(&common.store).await?, work).await
}

/// Works with a store that somebody has set up.
async fn existing<T>(
    common: &Common,
    work: impl AsyncFnOnce(&Admin) -> Result<T, AdminError>,
) -> Result<T, AdminError> {
    closing(Admin::open_existing(&common.store).await?, work).await
}

/// Closes the store, however the work ends, so that SQLite folds its WAL into the file.
async fn closing<T>(
    admin: Admin,
    work: impl AsyncFnOnce(&Admin) -> Result<T, AdminError>,
) -> Result<T, AdminError> {
    let result = work(&admin).await;
    admin.close().await;
    result
}

/// Every row of a list, page by page.
async fn all<T>(
    page_of: impl AsyncFn(PageRequest) -> Result<Page<T>, AdminError>,
) -> Result<Vec<T>, AdminError> {
    let mut request = PageRequest { limit: PageRequest::LIMIT_MAX, after: None };
    let mut rows = Vec::new();
    loop {
        let page = page_of(request).await?;
        rows.extend(page.data);
        if page.next_cursor.is_none() {
            return Ok(rows);
        }
        request.after = page.next_cursor;
    }
}
