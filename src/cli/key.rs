//! Commands on API keys: `key`.

use std::time::Duration;

use clap::{ArgGroup, Subcommand};
use serde::Serialize;

use super::CliError;
use super::output::{lines, print_line};
use super::store::{Common, all};
use crate::api::keys::{self, KeySpec};
use crate::api::views::{KeyView, NewKeyView};
use crate::api::{Refusal, Subsystems};
use crate::auth::PresentedKey;
use crate::config::parse_duration;
use crate::domain::{Actor, ApiKeyId, OrgId, Role, Scopes, Timestamp, Violation};
use crate::runtime::Clock;

/// The shortest life of a key: one with less could expire while its hash is computed.
const KEY_LIFE_MIN: Duration = Duration::from_secs(1);

#[derive(Subcommand, Debug)]
pub(super) enum KeyCommand {
    /// Create an API key, which is shown only once
    #[command(group = ArgGroup::new("owner").required(true))]
    Create {
        /// The organisation it acts for
        #[arg(long, value_name = "ID", group = "owner")]
        org: Option<OrgId>,
        /// Create an operator's key: it manages organisations and keys and cannot read events
        #[arg(long, group = "owner")]
        operator: bool,
        /// Its name, for people
        #[arg(long)]
        name: String,
        /// Its scopes, such as events:write,events:read; all scopes if unset
        #[arg(long)]
        scopes: Option<Scopes>,
        /// Events per minute that may be sent with it; as many as its organisation may if unset
        #[arg(long, value_name = "EVENTS", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
        rate_limit_per_minute: Option<u32>,
        /// Its lifetime, at least 1s; unset means that it does not expire
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires_in: Option<Duration>,
        #[command(flatten)]
        common: Common,
    },
    /// Make up a key for BOOTSTRAP_API_KEY or BOOTSTRAP_OPERATOR_KEY; no store knows it yet
    Generate,
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
    /// Replace a key by a new one, which is shown only once
    Rotate {
        /// The key's id: the 32 digits between its underscores, with or without hyphens
        id: ApiKeyId,
        /// How long the old key keeps working, at most 7d
        #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
        grace: Duration,
        #[command(flatten)]
        common: Common,
    },
    /// Give a key another name
    Rename {
        /// The key's id: the 32 digits between its underscores, with or without hyphens
        id: ApiKeyId,
        /// Its new name, for people
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Revoke a key now
    Revoke {
        /// The key's id: the 32 digits between its underscores, with or without hyphens
        id: ApiKeyId,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Serialize)]
struct Revoked {
    id: ApiKeyId,
    revoked: bool,
}

/// Runs a command on keys.
pub(super) async fn run(command: KeyCommand) -> Result<(), CliError> {
    match command {
        KeyCommand::Create {
            org,
            operator: _,
            name,
            scopes,
            rate_limit_per_minute,
            expires_in,
            common,
        } => {
            // Clap requires --operator where --org is missing.
            let role = org.map_or(Role::Operator, Role::Tenant);
            let scopes = scopes.unwrap_or(role.scopes());
            let create = async |s: &Subsystems| {
                let expires_at = expiry(s.clock.now(), expires_in)?;
                let spec = KeySpec { role, name, scopes, rate_limit_per_minute, expires_at };
                let issued = keys::create(s, spec, Role::Operator, &Actor::CLI).await?;
                Ok(NewKeyView::new(issued, s.clock.now()))
            };
            let key = match role {
                Role::Tenant(_) => common.existing(create).await?,
                Role::Operator => common.set_up(create).await?,
            };
            common.output.write(&key, new_key_line)?;
        }
        KeyCommand::Generate => {
            let id = ApiKeyId::mint(Clock::system().now());
            print_line(PresentedKey::generate(id)?.reveal())?;
        }
        KeyCommand::Show { id, common } => {
            let show = async |s: &Subsystems| {
                let key = keys::one(s, id).await?;
                Ok(KeyView::new(key, s.clock.now()))
            };
            common.output.write(&common.existing(show).await?, key_line)?;
        }
        KeyCommand::List { org, common } => {
            let every = async |s: &Subsystems| list(s, org).await;
            let keys = common.existing(every).await?;
            common.output.write(&keys, |keys| lines(keys, key_line))?;
        }
        KeyCommand::Rotate { id, grace, common } => {
            let rotate = async |s: &Subsystems| {
                let old = keys::one(s, id).await?;
                let issued = keys::rotate(s, old, grace, Role::Operator, &Actor::CLI).await?;
                Ok(NewKeyView::new(issued, s.clock.now()))
            };
            common.output.write(&common.existing(rotate).await?, new_key_line)?;
        }
        KeyCommand::Rename { id, name, common } => {
            let rename = async |s: &Subsystems| {
                let key = keys::rename(s, id, &name, &Actor::CLI).await?;
                Ok(KeyView::new(key, s.clock.now()))
            };
            common.output.write(&common.existing(rename).await?, key_line)?;
        }
        KeyCommand::Revoke { id, common } => {
            common.existing(async |s| keys::revoke(s, id, &Actor::CLI).await).await?;
            common.output.write(&Revoked { id, revoked: true }, |r| format!("{} revoked", r.id))?;
        }
    }
    Ok(())
}

/// All keys, or all of an organisation, newest first.
async fn list(subsystems: &Subsystems, org: Option<OrgId>) -> Result<Vec<KeyView>, Refusal> {
    let keys = all(async |page| match org {
        Some(org) => keys::list_of_org(subsystems, org, page).await,
        None => keys::list(subsystems, page).await,
    });
    let now = subsystems.clock.now();
    Ok(keys.await?.into_iter().map(|key| KeyView::new(key, now)).collect())
}

/// When a key that lives for `expires_in` expires.
fn expiry(now: Timestamp, expires_in: Option<Duration>) -> Result<Option<Timestamp>, Violation> {
    if expires_in.is_some_and(|span| span < KEY_LIFE_MIN) {
        return Err(Violation::new("expires_in", "range", "must be at least 1s"));
    }
    Ok(expires_in.map(|span| now.plus(span)))
}

fn key_line(key: &KeyView) -> String {
    let owner = key.org_id.map_or("operator".to_owned(), |org| format!("organisation {org}"));
    let moment = |at: Option<Timestamp>| at.map_or("never".to_owned(), |at| at.to_string());
    let (end, used) = (moment(key.expires_at), moment(key.last_used_at));
    let rate =
        key.rate_limit_per_minute.map_or(String::new(), |rate| format!("  {rate} per minute"));
    let scopes = key.scopes;
    format!("{}  {}  {owner}  {scopes}{rate}  expires: {end}  last used: {used}", key.id, key.name)
}

fn new_key_line(new: &NewKeyView) -> String {
    format!("{}\n\n  {}\n\nThe key is shown only once.", key_line(&new.record), new.key)
}
