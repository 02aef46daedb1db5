//! Commands on the store: `migrate`, `org`, `key`, `audit`; `endpoint` has a file of its own.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use serde::Serialize;

use super::CliError;
use super::output::Output;
use crate::app::{Admin, AdminError};
use crate::auth::IssuedKey;
use crate::config::{StoreConfig, parse_duration};
use crate::domain::{
    ApiKey, ApiKeyId, AuditEntry, Org, OrgChange, OrgId, OrgLimit, Page, PageRequest, Role, Scopes,
    Timestamp, Violation,
};

/// What every command on the store takes.
#[derive(Args, Debug)]
pub(super) struct Common {
    /// How the answer is written
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
    // Last, since its help heading holds for what comes after it.
    #[command(flatten)]
    pub(super) store: StoreConfig,
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
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Change an organisation's name and limits; running servers follow within a second
    Update {
        /// The organisation
        id: OrgId,
        /// What people call it
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Show an organisation, and how far its deletion is
    Show {
        /// The organisation
        id: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Refuse an organisation's keys and have its deliveries wait; nothing is lost
    Suspend {
        /// The organisation
        id: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// End a suspension
    Resume {
        /// The organisation
        id: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Delete an organisation with all it has, for good; a running server does it in the background
    Delete {
        /// The organisation
        id: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// List all organisations, newest first
    List(Common),
}

/// What an organisation may use.
#[derive(Args, Debug)]
pub(super) struct LimitArgs {
    /// Events a minute; without it, or none, the server's RATE_LIMIT_PER_MINUTE counts
    #[arg(long, value_name = "EVENTS", value_parser = parse_limit(OrgLimit::RatePerMinute))]
    rate_limit_per_minute: Option<LimitArg>,
    /// Events at once; as many as a minute's unless it is set
    #[arg(long, value_name = "EVENTS", value_parser = parse_limit(OrgLimit::Burst))]
    burst: Option<LimitArg>,
    /// Bytes of bodies a minute
    #[arg(long, value_name = "BYTES", value_parser = parse_limit(OrgLimit::BytesPerMinute))]
    bytes_per_minute: Option<LimitArg>,
    /// Events a calendar month, UTC
    #[arg(long, value_name = "EVENTS", value_parser = parse_limit(OrgLimit::EventsPerMonth))]
    events_per_month: Option<LimitArg>,
    /// Endpoints it may have
    #[arg(long, value_name = "COUNT", value_parser = parse_limit(OrgLimit::Endpoints))]
    endpoints_max: Option<LimitArg>,
    /// Good keys it may have
    #[arg(long, value_name = "COUNT", value_parser = parse_limit(OrgLimit::Keys))]
    keys_max: Option<LimitArg>,
    /// Bytes in one event's payload; never more than the server's MAX_EVENT_BYTES
    #[arg(long, value_name = "BYTES", value_parser = parse_limit(OrgLimit::PayloadBytes))]
    payload_bytes_max: Option<LimitArg>,
}

/// A number, or `none`.
#[derive(Clone, Copy, Debug)]
struct LimitArg(Option<u32>);

/// Parses what a limit is set to.
fn parse_limit(limit: OrgLimit) -> impl Fn(&str) -> Result<LimitArg, String> + Clone {
    move |text| {
        if text == "none" {
            return Ok(LimitArg(None));
        }
        let range = limit.range();
        let number = text.parse().ok().filter(|number| range.contains(number));
        let number = number.ok_or_else(|| format!("{}, or none", Violation::range_rule(&range)))?;
        Ok(LimitArg(Some(number)))
    }
}

impl LimitArgs {
    fn changes(&self) -> Vec<(OrgLimit, Option<u32>)> {
        let given = |limit| match limit {
            OrgLimit::RatePerMinute => self.rate_limit_per_minute,
            OrgLimit::Burst => self.burst,
            OrgLimit::BytesPerMinute => self.bytes_per_minute,
            OrgLimit::EventsPerMonth => self.events_per_month,
            OrgLimit::Endpoints => self.endpoints_max,
            OrgLimit::Keys => self.keys_max,
            OrgLimit::PayloadBytes => self.payload_bytes_max,
        };
        let change = |limit| given(limit).map(|LimitArg(value)| (limit, value));
        OrgLimit::ALL.into_iter().filter_map(change).collect()
    }
}

#[derive(Subcommand, Debug)]
pub(super) enum AuditCommand {
    /// List who changed what, newest first
    List {
        /// Of this organisation only
        #[arg(long, value_name = "ID")]
        org: Option<OrgId>,
        /// Lines at most
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        #[command(flatten)]
        common: Common,
    },
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
        /// What it may be used for, as in events:write,events:read; without it everything
        #[arg(long)]
        scopes: Option<Scopes>,
        /// How long it works, a second at least; without it for ever
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        common: Common,
    },
    /// Show a key, without its text
    Show {
        /// The key's id: the 32 digits between its underscores, with or without hyphens
        id: ApiKeyId,
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
        /// How long the old key goes on working; seven days at most
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
        OrgCommand::Create { name, limits, common } => {
            let limits = limits.changes();
            let create = async |admin: &Admin| admin.create_org(name, limits).await;
            let org = set_up(&common, create).await?;
            common.output.write(&org, org_line)?;
        }
        OrgCommand::Update { id, name, limits, common } => {
            let change = OrgChange { name, limits: limits.changes() };
            let org = existing(&common, async |admin| admin.update_org(id, &change).await).await?;
            common.output.write(&org, org_line)?;
        }
        OrgCommand::Show { id, common } => {
            let org = existing(&common, async |admin| admin.org(id).await).await?;
            common.output.write(&org, org_line)?;
        }
        OrgCommand::Suspend { id, common } => {
            let org = existing(&common, async |admin| admin.suspend_org(id, true).await).await?;
            common.output.write(&org, org_line)?;
        }
        OrgCommand::Resume { id, common } => {
            let org = existing(&common, async |admin| admin.suspend_org(id, false).await).await?;
            common.output.write(&org, org_line)?;
        }
        OrgCommand::Delete { id, common } => {
            let org = existing(&common, async |admin| admin.delete_org(id).await).await?;
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
        KeyCommand::Create { org, operator: _, name, scopes, expires_in, common } => {
            let issued = if let Some(tenant) = org.map(Role::Tenant) {
                existing(&common, async |admin| {
                    admin.create_key(tenant, name, scopes, expires_in).await
                })
                .await?
            } else {
                // Clap sees to it that --operator was given.
                let operator = Role::Operator;
                set_up(&common, async |admin| {
                    admin.create_key(operator, name, scopes, expires_in).await
                })
                .await?
            };
            common.output.write(&IssuedKeyView::new(&issued), issued_key_line)?;
        }
        KeyCommand::Show { id, common } => {
            let key = existing(&common, async |admin| admin.key(id).await).await?;
            common.output.write(&KeyView::new(&key), key_line)?;
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

pub(super) async fn audit(command: AuditCommand) -> Result<(), CliError> {
    let AuditCommand::List { org, limit, common } = command;
    let page = PageRequest { limit, after: None };
    let log = existing(&common, async |admin| admin.audit_log(org, page).await).await?;
    common.output.write(&log.data, |entries| lines(entries, audit_line))?;
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
struct KeyView<'a> {
    id: ApiKeyId,
    /// `null` for an operator's key.
    org_id: Option<OrgId>,
    name: &'a str,
    scopes: Scopes,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    /// The key that it was rotated to.
    replaced_by: Option<ApiKeyId>,
}

#[derive(Serialize)]
struct IssuedKeyView<'a> {
    key: &'a str,
    #[serde(flatten)]
    record: KeyView<'a>,
}

impl<'a> KeyView<'a> {
    fn new(key: &'a ApiKey) -> Self {
        Self {
            id: key.id,
            org_id: key.role.org_id(),
            name: &key.name,
            scopes: key.scopes,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            replaced_by: key.replaced_by,
        }
    }
}

impl<'a> IssuedKeyView<'a> {
    fn new(issued: &'a IssuedKey) -> Self {
        Self { key: issued.key.reveal(), record: KeyView::new(&issued.record) }
    }
}

fn org_line(org: &Org) -> String {
    let limits: Vec<String> = org
        .limits
        .iter()
        .filter_map(|(limit, value)| Some(format!("{}: {}", limit.name(), value?)))
        .collect();
    let limits = if limits.is_empty() { "default limits".to_owned() } else { limits.join(", ") };
    let rows = org.deletion.map_or(String::new(), |d| format!("  rows deleted: {}", d.rows));
    format!("{}  {}  {}  {limits}{rows}", org.id, org.name, org.state())
}

fn key_line(key: &KeyView<'_>) -> String {
    let owner = key.org_id.map_or("operator".to_owned(), |org| format!("organisation {org}"));
    let moment = |at: Option<Timestamp>| at.map_or("never".to_owned(), |at| at.to_string());
    let (end, used) = (moment(key.expires_at), moment(key.last_used_at));
    format!("{}  {}  {owner}  {}  expires: {end}  last used: {used}", key.id, key.name, key.scopes)
}

fn audit_line(entry: &AuditEntry) -> String {
    let org = entry.org_id.map_or(String::new(), |org| format!("  organisation {org}"));
    let from = entry.address.as_deref().map_or(String::new(), |from| format!(" from {from}"));
    let AuditEntry { at, actor, action, object, changes, .. } = entry;
    format!("{at}  {actor}{from}  {action} {object}{org}  {changes}")
}

fn issued_key_line(issued: &IssuedKeyView<'_>) -> String {
    format!("{}\n\n  {}\n\nThe key is shown this once.", key_line(&issued.record), issued.key)
}

pub(super) fn lines<T>(all: &[T], line: impl Fn(&T) -> String) -> String {
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
pub(super) async fn existing<T>(
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
pub(super) async fn all<T>(
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
