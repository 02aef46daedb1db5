//! Commands on organisations: `org`.

use clap::{Args, Subcommand};

use super::CliError;
use super::output::lines;
use super::store::{Common, all};
use crate::api::{Refusal, Subsystems, orgs};
use crate::domain::{Actor, EventTypeRates, Org, OrgChange, OrgId, OrgLimit, Violation};

#[derive(Subcommand, Debug)]
pub(super) enum OrgCommand {
    /// Create an organisation
    Create {
        /// Its name, for people; it need not be unique
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
        /// Its name, for people; it need not be unique
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        limits: LimitArgs,
        #[command(flatten)]
        common: Common,
    },
    /// Show an organisation and the progress of its deletion
    Show {
        /// The organisation
        id: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Suspend an organisation: its keys are refused, its deliveries wait, and nothing is lost
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
    /// Delete an organisation and all its data for good; a running server does it in the background
    Delete {
        /// The organisation
        id: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// List all organisations, newest first
    List(Common),
}

/// Limits of an organisation.
#[derive(Args, Debug)]
pub(super) struct LimitArgs {
    /// Events per minute; unset or `none` follows the server's RATE_LIMIT_PER_MINUTE
    #[arg(long, value_name = "EVENTS", value_parser = parse_limit(OrgLimit::RatePerMinute))]
    rate_limit_per_minute: Option<LimitArg>,
    /// Events at once; unset means as many as per minute
    #[arg(long, value_name = "EVENTS", value_parser = parse_limit(OrgLimit::Burst))]
    burst: Option<LimitArg>,
    /// Bytes of request bodies per minute
    #[arg(long, value_name = "BYTES", value_parser = parse_limit(OrgLimit::BytesPerMinute))]
    bytes_per_minute: Option<LimitArg>,
    /// Events per calendar month, UTC
    #[arg(long, value_name = "EVENTS", value_parser = parse_limit(OrgLimit::EventsPerMonth))]
    events_per_month: Option<LimitArg>,
    /// Endpoints at most; unset or `none` follows the server's ENDPOINTS_MAX
    #[arg(long, value_name = "COUNT", value_parser = parse_limit(OrgLimit::Endpoints))]
    endpoints_max: Option<LimitArg>,
    /// Active keys at most; unset or `none` follows the server's KEYS_MAX
    #[arg(long, value_name = "COUNT", value_parser = parse_limit(OrgLimit::Keys))]
    keys_max: Option<LimitArg>,
    /// Bytes in one event's payload; at most the server's MAX_EVENT_BYTES
    #[arg(long, value_name = "BYTES", value_parser = parse_limit(OrgLimit::PayloadBytes))]
    payload_bytes_max: Option<LimitArg>,
    /// Deliveries, per minute, that accepted events become; unset means ten times the event limit
    #[arg(long, value_name = "DELIVERIES", value_parser = parse_limit(OrgLimit::DeliveriesPerMinute))]
    deliveries_per_minute: Option<LimitArg>,
    /// Days that events and deliveries are kept; unset or `none` follows the server's RETENTION
    #[arg(long, value_name = "DAYS", value_parser = parse_limit(OrgLimit::RetentionDays))]
    retention_days: Option<LimitArg>,
    /// Days that payloads are kept, at most as many as events; unset or `none` follows PAYLOAD_RETENTION
    #[arg(long, value_name = "DAYS", value_parser = parse_limit(OrgLimit::PayloadRetentionDays))]
    payload_retention_days: Option<LimitArg>,
    /// Events per minute of an event type; may be given several times, and replaces all earlier ones
    #[arg(long = "event-type-rate", value_name = "TYPE=EVENTS", value_parser = parse_rate)]
    event_type_rates: Vec<(String, u32)>,
    /// Remove all limits by event type
    #[arg(long, conflicts_with = "event_type_rates")]
    no_event_type_rates: bool,
}

/// A number, or `none`.
#[derive(Clone, Copy, Debug)]
struct LimitArg(Option<u32>);

/// Parses the value of a limit.
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

/// Parses `TYPE=EVENTS`.
fn parse_rate(text: &str) -> Result<(String, u32), String> {
    let rate = text
        .split_once('=')
        .and_then(|(event_type, rate)| Some((event_type.to_owned(), rate.parse().ok()?)));
    rate.ok_or_else(|| "must be an event type and a number, as in user.login=60".to_owned())
}

impl LimitArgs {
    /// The change that sets these limits, and the name if there is one.
    fn change(self, name: Option<String>) -> Result<OrgChange, Refusal> {
        let limits = self.limits();
        let rates = self.event_type_rates.iter().map(|(name, rate)| (name.as_str(), Some(*rate)));
        let rates = EventTypeRates::parse(rates).map_err(|broken| {
            let first = broken.into_iter().next();
            Refusal::Invalid(
                first.unwrap_or_else(|| Violation::new("event_type_rates", "type", "")),
            )
        })?;
        let event_type_rates = (self.no_event_type_rates || !rates.is_empty()).then_some(rates);
        Ok(OrgChange { name, limits, event_type_rates, own_event_type_rates: None })
    }

    fn limits(&self) -> Vec<(OrgLimit, Option<u32>)> {
        let given = |limit| match limit {
            OrgLimit::RatePerMinute => self.rate_limit_per_minute,
            OrgLimit::Burst => self.burst,
            OrgLimit::BytesPerMinute => self.bytes_per_minute,
            OrgLimit::EventsPerMonth => self.events_per_month,
            OrgLimit::Endpoints => self.endpoints_max,
            OrgLimit::Keys => self.keys_max,
            OrgLimit::PayloadBytes => self.payload_bytes_max,
            OrgLimit::DeliveriesPerMinute => self.deliveries_per_minute,
            OrgLimit::RetentionDays => self.retention_days,
            OrgLimit::PayloadRetentionDays => self.payload_retention_days,
        };
        let change = |limit| given(limit).map(|LimitArg(value)| (limit, value));
        OrgLimit::ALL.into_iter().filter_map(change).collect()
    }
}

/// Runs a command on organisations.
pub(super) async fn run(command: OrgCommand) -> Result<(), CliError> {
    let by = &Actor::CLI;
    let (org, common) = match command {
        OrgCommand::Create { name, limits, common } => {
            let create =
                async |s: &Subsystems| orgs::create(s, &limits.change(Some(name))?, by).await;
            (common.set_up(create).await?, common)
        }
        OrgCommand::Update { id, name, limits, common } => {
            let update =
                async |s: &Subsystems| orgs::change(s, id, &limits.change(name)?, by).await;
            (common.existing(update).await?, common)
        }
        OrgCommand::Show { id, common } => {
            (common.existing(async |s| orgs::one(s, id).await).await?, common)
        }
        OrgCommand::Suspend { id, common } => {
            (common.existing(async |s| orgs::suspend(s, id, by).await).await?, common)
        }
        OrgCommand::Resume { id, common } => {
            (common.existing(async |s| orgs::resume(s, id, by).await).await?, common)
        }
        OrgCommand::Delete { id, common } => {
            (common.existing(async |s| orgs::delete(s, id, by).await).await?, common)
        }
        OrgCommand::List(common) => return list(&common).await,
    };
    common.output.write(&org, org_line)?;
    Ok(())
}

async fn list(common: &Common) -> Result<(), CliError> {
    let every = async |s: &Subsystems| all(async |page| orgs::list(s, page).await).await;
    let orgs = common.existing(every).await?;
    common.output.write(&orgs, |orgs| lines(orgs, org_line))?;
    Ok(())
}

fn org_line(org: &Org) -> String {
    let limits = org.limits.iter();
    let limits = limits.filter_map(|(limit, value)| Some(format!("{}: {}", limit.name(), value?)));
    let effective = org.effective_event_type_rates();
    let rates =
        effective.iter().map(|(event_type, rate)| format!("{event_type}: {rate} per minute"));
    let limits: Vec<String> = limits.chain(rates).collect();
    let limits = if limits.is_empty() { "default limits".to_owned() } else { limits.join(", ") };
    let rows = org.deletion.map_or(String::new(), |d| format!("  rows deleted: {}", d.rows));
    format!("{}  {}  {}  {limits}{rows}", org.id, org.name, org.state())
}
