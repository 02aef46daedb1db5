//! Commands on a tenant's deliveries and replays: `delivery`, `replay`.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::CliError;
use super::admin::{Common, existing, lines};
use crate::app::Admin;
use crate::domain::{
    Attempt, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId, EventId, OrgId,
    PageRequest, Replay, ReplayId, Timestamp,
};

#[derive(Subcommand, Debug)]
pub(super) enum DeliveryCommand {
    /// List an organisation's deliveries, newest first
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// Standing so: pending, delivered, dead or cancelled
        #[arg(long)]
        status: Option<DeliveryStatus>,
        /// To this endpoint
        #[arg(long, value_name = "ID")]
        endpoint: Option<EndpointId>,
        /// Of this event
        #[arg(long, value_name = "ID")]
        event: Option<EventId>,
        /// Planned at this moment or later
        #[arg(long, value_name = "TIME", value_parser = parse_moment)]
        since: Option<Timestamp>,
        /// Planned before this moment
        #[arg(long, value_name = "TIME", value_parser = parse_moment)]
        until: Option<Timestamp>,
        /// At most so many
        #[arg(long, default_value_t = PageRequest::LIMIT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(PageRequest::LIMIT_MAX)))]
        limit: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Show a delivery with every attempt
    Show(OneDelivery),
    /// Make a delivery due now, whatever became of it
    Retry(OneDelivery),
    /// Send the same event once more, as a new delivery
    Replay(OneDelivery),
    /// Cancel a pending delivery
    Cancel(OneDelivery),
}

/// A delivery of an organisation.
#[derive(Args, Debug)]
pub(super) struct OneDelivery {
    /// The organisation it belongs to
    #[arg(long, value_name = "ID")]
    org: OrgId,
    /// The delivery
    id: DeliveryId,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand, Debug)]
pub(super) enum ReplayCommand {
    /// List an organisation's latest replays, newest first
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        #[command(flatten)]
        common: Common,
    },
    /// Show how far a replay has come
    Show {
        /// The organisation it belongs to
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// The replay
        id: ReplayId,
        #[command(flatten)]
        common: Common,
    },
}

/// A delivery with its attempts.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    delivery: DeliveryRow,
    attempts: Vec<Attempt>,
}

/// A delivery in the words of the API.
#[derive(Serialize)]
struct DeliveryRow {
    id: DeliveryId,
    event_id: EventId,
    endpoint_id: EndpointId,
    status: DeliveryStatus,
    attempt_count: u32,
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    replay_of: Option<DeliveryId>,
}

fn parse_moment(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "must be an RFC 3339 date and time such as 2026-01-31T12:00:00Z".to_owned())
}

pub(super) async fn delivery(command: DeliveryCommand) -> Result<(), CliError> {
    match command {
        DeliveryCommand::List { org, status, endpoint, event, since, until, limit, common } => {
            let filter =
                DeliveryFilter { status, endpoint_id: endpoint, event_id: event, since, until };
            let page = PageRequest { limit, after: None };
            let list = async |admin: &Admin| admin.deliveries(org, &filter, page).await;
            let found = existing(&common, list).await?;
            let rows: Vec<_> = found.data.into_iter().map(DeliveryRow::from).collect();
            common.output.write(&rows, |rows| lines(rows, delivery_line))?;
        }
        DeliveryCommand::Show(OneDelivery { org, id, common }) => {
            let show = async |admin: &Admin| admin.delivery(org, id).await;
            let (delivery, attempts) = existing(&common, show).await?;
            let shown = Shown { delivery: delivery.into(), attempts };
            common.output.write(&shown, |shown| {
                let attempts = shown.attempts.iter().map(attempt_line);
                let all = std::iter::once(delivery_line(&shown.delivery)).chain(attempts);
                all.collect::<Vec<_>>().join("\n")
            })?;
        }
        DeliveryCommand::Retry(one) => {
            change(one, async |admin, org, id| admin.retry_delivery(org, id).await).await?;
        }
        DeliveryCommand::Replay(one) => {
            change(one, async |admin, org, id| admin.replay_delivery(org, id).await).await?;
        }
        DeliveryCommand::Cancel(one) => {
            change(one, async |admin, org, id| admin.cancel_delivery(org, id).await).await?;
        }
    }
    Ok(())
}

pub(super) async fn replay(command: ReplayCommand) -> Result<(), CliError> {
    match command {
        ReplayCommand::List { org, common } => {
            let page = PageRequest { limit: PageRequest::LIMIT_MAX, after: None };
            let list = async |admin: &Admin| admin.replays(org, page).await;
            let replays = existing(&common, list).await?.data;
            common.output.write(&replays, |replays| lines(replays, replay_line))?;
        }
        ReplayCommand::Show { org, id, common } => {
            let show = async |admin: &Admin| admin.replay(org, id).await;
            let replay = existing(&common, show).await?;
            common.output.write(&replay, replay_line)?;
        }
    }
    Ok(())
}

/// Does something to one delivery and writes what comes of it.
async fn change(
    one: OneDelivery,
    work: impl AsyncFnOnce(&Admin, OrgId, DeliveryId) -> Result<Delivery, crate::app::AdminError>,
) -> Result<(), CliError> {
    let OneDelivery { org, id, common } = one;
    let delivery = existing(&common, async |admin| work(admin, org, id).await).await?;
    common.output.write(&DeliveryRow::from(delivery), delivery_line)?;
    Ok(())
}

impl From<Delivery> for DeliveryRow {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            status: delivery.status,
            attempt_count: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
            replay_of: delivery.replay_of,
        }
    }
}

fn delivery_line(delivery: &DeliveryRow) -> String {
    let next = delivery.next_attempt_at.map_or(String::new(), |at| format!("  next: {at}"));
    let old = delivery.replay_of.map_or(String::new(), |old| format!("  replay of {old}"));
    format!(
        "{}  {}  event {}  endpoint {}  attempts: {}{next}{old}",
        delivery.id,
        delivery.status.as_str(),
        delivery.event_id,
        delivery.endpoint_id,
        delivery.attempt_count,
    )
}

fn attempt_line(attempt: &Attempt) -> String {
    let status = attempt.status_code.map_or("no answer".to_owned(), |code| code.to_string());
    let error = attempt.error.as_deref().map_or(String::new(), |error| format!("  {error}"));
    let Attempt { number, started_at, duration_ms, .. } = attempt;
    format!("  {number}.  {started_at}  {status}  {duration_ms} ms{error}")
}

fn replay_line(replay: &Replay) -> String {
    let total = replay.total.map_or("?".to_owned(), |total| total.to_string());
    let Replay { id, done, skipped, .. } = replay;
    let why = replay.detail.as_deref().map_or(String::new(), |why| format!("  {why}"));
    let status = replay.status.as_str();
    format!("{id}  {status}  done: {done} of {total}  skipped: {skipped}{why}")
}
