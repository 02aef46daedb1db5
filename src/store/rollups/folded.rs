//! What some deltas add to each row of the rollups.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::delivery_hour::DeliveryHour;
use super::delta::{DeltaRecord, Ended, EventRecord, OutcomeRecord, read_labelled};
use super::event_hour::{EventCount, EventHour};
use super::labels::OutcomeLabels;
use super::type_outcomes::TypeOutcomes;
use crate::domain::{EndpointId, Month, OrgId, Timestamp};
use crate::store::Result;

/// The account that stands for the whole organisation: no account has an empty id.
pub(super) const ALL_ACCOUNTS: &str = "";
/// The endpoint that stands for all of an organisation.
pub(super) const ALL_ENDPOINTS: EndpointId = EndpointId::from_uuid(Uuid::nil());
/// The organisation that stands for all of them. Its events are of one type, without a name, and of no user: what
/// organisations call things stays theirs.
pub(super) const ALL_ORGS: OrgId = OrgId::from_uuid(Uuid::nil());

/// Additions to rows, by their keys in order.
#[derive(Debug, Default)]
pub(super) struct Additions {
    pub(super) hours: BTreeMap<(OrgId, String, i64), AccountHour>,
    pub(super) accounts: BTreeMap<(OrgId, String), Activity>,
    pub(super) event_types: BTreeMap<(OrgId, String), Activity>,
    pub(super) deliveries: BTreeMap<(OrgId, EndpointId, i64), DeliveryHour>,
    pub(super) months: BTreeMap<(OrgId, Month), MonthCounts>,
    /// Records that were read.
    pub(super) records: usize,
}

/// What is counted of an account in an hour.
#[derive(Debug, Default)]
pub(super) struct AccountHour {
    pub(super) events: EventHour,
    pub(super) outcomes: TypeOutcomes,
}

/// How often and when something was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Activity {
    pub(super) first_seen: Timestamp,
    pub(super) last_seen: Timestamp,
    pub(super) count: EventCount,
}

/// The usage of a month.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct MonthCounts {
    pub(super) count: EventCount,
    pub(super) delivered: u64,
    pub(super) dead: u64,
}

impl Activity {
    /// Something that was seen once.
    pub(super) fn once(record: &EventRecord<'_>) -> Self {
        Self { first_seen: record.at(), last_seen: record.at(), count: record.count() }
    }

    /// Adds what else was seen of it.
    pub(super) fn merge(&mut self, other: &Self) {
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.count.add(other.count);
    }
}

impl Additions {
    /// Adds a delta of an organisation, with the types and accounts of its outcomes.
    pub(super) fn add(&mut self, org: OrgId, body: &[u8], labels: Option<&[u8]>) -> Result<()> {
        read_labelled(body, labels, |record, labels| {
            self.records += 1;
            match record {
                DeltaRecord::Event(event) => self.add_event(org, &event),
                DeltaRecord::Outcome(outcome) => self.add_outcome(org, &outcome, labels),
            }
        })
    }

    /// How many rows they change.
    pub(super) fn rows(&self) -> usize {
        let Self { hours, accounts, event_types, deliveries, months, records: _ } = self;
        hours.len() + accounts.len() + event_types.len() + deliveries.len() + months.len()
    }

    fn add_event(&mut self, org: OrgId, record: &EventRecord<'_>) {
        let (hour, minute) = record.hour_and_minute();
        let (event_type, count) = (record.event_type, record.count());
        if let Some(account) = record.account_id {
            let key = (org, account.to_owned(), hour);
            let of_account = self.hours.entry(key).or_default();
            of_account.events.count(minute, event_type, record.user_id, count);
            see(&mut self.accounts, org, account, record);
        }
        for (org, event_type) in [(org, event_type), (ALL_ORGS, "")] {
            let key = (org, ALL_ACCOUNTS.to_owned(), hour);
            self.hours.entry(key).or_default().events.count(minute, event_type, None, count);
        }
        see(&mut self.event_types, org, event_type, record);
        let month = (org, Month::of(record.accepted_at()));
        self.months.entry(month).or_default().count.add(count);
    }

    fn add_outcome(
        &mut self,
        org: OrgId,
        record: &OutcomeRecord,
        labels: Option<OutcomeLabels<'_>>,
    ) {
        let (hour, minute) = record.hour_and_minute();
        if let Some(OutcomeLabels { event_type, account_id }) = labels {
            for account in [Some(ALL_ACCOUNTS), account_id].into_iter().flatten() {
                let key = (org, account.to_owned(), hour);
                self.hours.entry(key).or_default().outcomes.count(minute, event_type, record);
            }
        }
        let whole = [(org, record.endpoint()), (org, ALL_ENDPOINTS), (ALL_ORGS, ALL_ENDPOINTS)];
        for (org, endpoint) in whole {
            self.deliveries.entry((org, endpoint, hour)).or_default().count(minute, record);
        }
        let month = self.months.entry((org, Month::of(record.at()))).or_default();
        match record.ended {
            Ended::Delivered => month.delivered += 1,
            Ended::Dead => month.dead += 1,
            Ended::NotYet => {}
        }
    }
}

/// Notes that something was seen.
fn see(
    seen: &mut BTreeMap<(OrgId, String), Activity>,
    org: OrgId,
    label: &str,
    record: &EventRecord<'_>,
) {
    let once = Activity::once(record);
    seen.entry((org, label.to_owned()))
        .and_modify(|activity| activity.merge(&once))
        .or_insert(once);
}
