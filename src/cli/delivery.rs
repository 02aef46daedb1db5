//! Commands on a tenant's deliveries: `delivery`.

use clap::{Args, Subcommand};

use super::CliError;
use super::output::lines;
use super::store::Common;
use crate::api::views::{AttemptView, DeliveryView};
use crate::api::{Refusal, Subsystems, deliveries, orgs};
use crate::domain::{
    Actor, Attempt, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId, ErrorClass,
    EventId, EventTypeFilter, ListOrder, OrgId, PageRequest, Timestamp,
};

#[derive(Subcommand, Debug)]
pub(super) enum DeliveryCommand {
    /// List an organisation's deliveries
    List {
        /// The organisation
        #[arg(long, value_name = "ID")]
        org: OrgId,
        /// With this status: pending, delivered, dead or cancelled
        #[arg(long)]
        status: Option<DeliveryStatus>,
        /// To this endpoint
        #[arg(long, value_name = "ID")]
        endpoint: Option<EndpointId>,
        /// Of this event
        #[arg(long, value_name = "ID")]
        event: Option<EventId>,
        /// Created at this time or later
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        since: Option<Timestamp>,
        /// Created before this time
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        until: Option<Timestamp>,
        /// Of events of this type, such as user.login or user.*
        #[arg(long = "type", value_name = "TYPE")]
        event_type: Option<EventTypeFilter>,
        /// Whose last attempt failed with this class of error, such as timeout
        #[arg(long, value_name = "CLASS")]
        error_class: Option<ErrorClass>,
        /// Whose last attempt was answered with this status, which is none of 2xx
        #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(300..=999))]
        status_code: Option<u16>,
        /// The oldest first instead of the newest
        #[arg(long)]
        oldest_first: bool,
        /// Deliveries to list at most
        #[arg(long, default_value_t = PageRequest::LIMIT_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(PageRequest::LIMIT_MAX)))]
        limit: u32,
        #[command(flatten)]
        common: Common,
    },
    /// Show a delivery with every attempt
    Show(OneDelivery),
    /// Make a delivery due now, whatever its status
    Retry(OneDelivery),
    /// Send the same event again, as a new delivery
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

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "must be an RFC 3339 date and time such as 2026-01-31T12:00:00Z".to_owned())
}

/// Runs a command on deliveries.
pub(super) async fn run(command: DeliveryCommand) -> Result<(), CliError> {
    match command {
        DeliveryCommand::List {
            org,
            status,
            endpoint,
            event,
            since,
            until,
            event_type,
            error_class,
            status_code,
            oldest_first,
            limit,
            common,
        } => {
            let order = if oldest_first { ListOrder::OldestFirst } else { ListOrder::NewestFirst };
            let filter = DeliveryFilter {
                status,
                endpoint_id: endpoint,
                event_id: event,
                since,
                until,
                event_type,
                error_class,
                status_code,
            };
            let page = PageRequest { order, ..PageRequest::first(limit) };
            let list = async |s: &Subsystems| {
                orgs::existing(s, org).await?;
                deliveries::list(s, org, &filter, page).await
            };
            let found = common.existing(list).await?;
            let rows: Vec<_> = found.data.into_iter().map(DeliveryView::from).collect();
            common.output.write(&rows, |rows| lines(rows, delivery_line))?;
        }
        DeliveryCommand::Show(OneDelivery { org, id, common }) => {
            let show = async |s: &Subsystems| deliveries::one(s, org, id).await;
            let shown = common.existing(show).await?;
            common.output.write(&shown, |shown| {
                let attempts = shown.attempts.iter().map(attempt_line);
                let all = std::iter::once(delivery_line(&shown.delivery)).chain(attempts);
                all.collect::<Vec<_>>().join("\n")
            })?;
        }
        DeliveryCommand::Retry(one) => {
            change(one, async |s, org, id| deliveries::retry(s, org, id, &Actor::CLI).await)
                .await?;
        }
        DeliveryCommand::Replay(one) => {
            change(one, async |s, org, id| deliveries::replay(s, org, id, &Actor::CLI).await)
                .await?;
        }
        DeliveryCommand::Cancel(one) => {
            change(one, async |s, org, id| deliveries::cancel(s, org, id, &Actor::CLI).await)
                .await?;
        }
    }
    Ok(())
}

/// Changes one delivery and writes it.
async fn change(
    one: OneDelivery,
    work: impl AsyncFnOnce(&Subsystems, OrgId, DeliveryId) -> Result<Delivery, Refusal>,
) -> Result<(), CliError> {
    let OneDelivery { org, id, common } = one;
    let delivery = common.existing(async |s| work(s, org, id).await).await?;
    common.output.write(&DeliveryView::from(delivery), delivery_line)?;
    Ok(())
}

fn delivery_line(delivery: &DeliveryView) -> String {
    let next = delivery.next_attempt_at.map_or(String::new(), |at| format!("  next: {at}"));
    let old = delivery.replay_of.map_or(String::new(), |old| format!("  replay of {old}"));
    let event_type = delivery.event_type.as_deref().unwrap_or("-");
    let error = delivery.last_error.as_deref().map_or(String::new(), |error| format!("  {error}"));
    format!(
        "{}  {}  {event_type}  event {}  endpoint {}  attempts: {}{next}{old}{error}",
        delivery.id,
        delivery.status.as_str(),
        delivery.event_id,
        delivery.endpoint_id,
        delivery.attempt_count,
    )
}

fn attempt_line(AttemptView { attempt, .. }: &AttemptView) -> String {
    let status = attempt.status_code.map_or("no answer".to_owned(), |code| code.to_string());
    let error = attempt.error.as_deref().map_or(String::new(), |error| format!("  {error}"));
    let Attempt { number, started_at, duration_ms, .. } = attempt;
    format!("  {number}.  {started_at}  {status}  {duration_ms} ms{error}")
}
