//! Following what happens in an organisation: events, outcomes of attempts and dead letters, as they are stored by any
//! server.
//!
//! A follower polls in short statements, so it holds nothing while it waits. It may see a change twice, after it comes
//! back, and always sees what has changed as it is now.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::refusal::Refusal;
use super::subsystems::Subsystems;
use super::views::{DeliveryView, EventView};
use crate::domain::{
    ChangeCursor, ChangeKind, DeadLetter, DeliveryId, EventId, EventSummary, EventTypeFilter,
    LoggedChange, OrgId, Page, Timestamp,
};
use crate::runtime::Stopwatch;
use crate::store::CHANGES_KEPT;

/// Changes that one step shows at most.
const SHOWN_MAX: usize = 200;
/// Bytes of payloads that one step shows at most, beyond the first one.
const SHOWN_BYTES_MAX: usize = 256 * 1024;
/// Time between two requests that changes be logged.
const ASKED_EVERY: Duration = Duration::from_secs(30);

/// Which changes are shown.
#[derive(Clone, Debug)]
pub struct ChangeFilter {
    /// Of what.
    pub kinds: Vec<ChangeKind>,
    /// Events of these types.
    pub event_type: Option<EventTypeFilter>,
    /// Whether events have their payloads.
    pub with_payloads: bool,
}

/// What has changed, as it is now.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum Change {
    /// An event that was stored.
    Event(EventView),
    /// A delivery of which an attempt has ended.
    Delivery(DeliveryView),
    /// A delivery that was given up.
    DeadLetter(DeadLetter),
}

impl Change {
    /// Of what it is.
    pub const fn kind(&self) -> ChangeKind {
        match self {
            Self::Event(_) => ChangeKind::Event,
            Self::Delivery(_) => ChangeKind::Delivery,
            Self::DeadLetter(_) => ChangeKind::DeadLetter,
        }
    }
}

/// What a step has found.
#[derive(Debug)]
pub struct Changes {
    /// Changes, oldest first, each with the position behind it.
    pub shown: Vec<(ChangeCursor, Change)>,
    /// Whether there may be more at once.
    pub more: bool,
}

/// Follows the changes of an organisation.
#[derive(Debug)]
pub struct ChangeFollower {
    org: OrgId,
    filter: ChangeFilter,
    cursor: ChangeCursor,
    asked: Stopwatch,
}

impl ChangeFollower {
    /// Begins behind a position, or now. Changes after a position that is too old are not kept: then it begins now,
    /// and the second value is `true`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin(
        subsystems: &Subsystems,
        org: OrgId,
        filter: ChangeFilter,
        after: Option<ChangeCursor>,
    ) -> Result<(Self, bool), Refusal> {
        let now = subsystems.clock.now();
        subsystems.store.follow_changes(org, now).await?;
        let oldest = now.minus(CHANGES_KEPT).seconds();
        let kept = after.filter(|cursor| cursor.at_seconds > oldest);
        let cursor = match kept {
            Some(cursor) => cursor,
            None => subsystems.store.newest_change(org, now).await?,
        };
        let missed = after.is_some() && kept.is_none();
        Ok((Self { org, filter, cursor, asked: Stopwatch::start() }, missed))
    }

    /// The position that it has reached.
    pub const fn cursor(&self) -> ChangeCursor {
        self.cursor
    }

    /// The next changes; none if nothing has happened.
    ///
    /// # Errors
    /// When the store fails. The next step goes on at the same place.
    pub async fn step(&mut self, subsystems: &Subsystems) -> Result<Changes, Refusal> {
        let (store, now) = (&subsystems.store, subsystems.clock.now());
        if self.asked.elapsed() >= ASKED_EVERY {
            store.follow_changes(self.org, now).await?;
            self.asked = Stopwatch::start();
        }
        let logged = store.changes_after(self.org, self.cursor, now).await?;
        let read = logged.get(..logged.len().min(SHOWN_MAX)).unwrap_or_default();
        let mut found = ChangedObjects::of(subsystems, self.org, &self.filter, read).await?;
        let mut shown = Vec::new();
        self.cursor.at_seconds = now.seconds();
        for (cursor, change) in read {
            if found.payloads_end_before(change) {
                break;
            }
            self.cursor = *cursor;
            shown.extend(found.take(change).map(|change| (*cursor, change)));
        }
        // Whatever was read, more may be behind it.
        Ok(Changes { shown, more: !read.is_empty() })
    }
}

/// What some changes are of.
struct ChangedObjects {
    events: HashMap<Uuid, EventView>,
    /// Events that do not fit into this step.
    left: HashSet<Uuid>,
    deliveries: HashMap<Uuid, DeliveryView>,
    dead_letters: HashMap<Uuid, DeadLetter>,
}

impl ChangedObjects {
    async fn of(
        subsystems: &Subsystems,
        org: OrgId,
        filter: &ChangeFilter,
        changes: &[(ChangeCursor, LoggedChange)],
    ) -> Result<Self, Refusal> {
        let store = &subsystems.store;
        let of_kind = |kind| {
            let is_meant = filter.kinds.contains(&kind);
            changes
                .iter()
                .map(|(_, change)| *change)
                .filter(move |change| is_meant && change.kind == kind)
        };
        let keys: Vec<_> = of_kind(ChangeKind::Event)
            .map(|change| (EventId::from_uuid(change.id), change.at))
            .collect();
        let mut events = store.events_by_key(org, &keys).await?;
        events.retain(|event| {
            filter
                .event_type
                .as_ref()
                .is_none_or(|wanted| wanted.matches(event.event_type.as_str()))
        });
        let (events, left) = with_payloads(subsystems, org, filter, &keys, events).await?;
        let ids: Vec<_> =
            of_kind(ChangeKind::Delivery).map(|change| DeliveryId::from_uuid(change.id)).collect();
        let deliveries = store.deliveries_by_id(org, &ids).await?;
        let ids: Vec<_> = of_kind(ChangeKind::DeadLetter).map(|change| change.id).collect();
        let dead_letters = store.dead_letters_by_id(org, ids).await?;
        Ok(Self {
            events,
            left,
            deliveries: deliveries.into_iter().map(|one| (one.id.uuid(), one.into())).collect(),
            dead_letters: dead_letters.into_iter().map(|one| (one.id.uuid(), one)).collect(),
        })
    }

    fn payloads_end_before(&self, change: &LoggedChange) -> bool {
        change.kind == ChangeKind::Event && self.left.contains(&change.id)
    }

    /// What a change is of, the first time that it is asked for: the next one of the same is shown already.
    fn take(&mut self, change: &LoggedChange) -> Option<Change> {
        match change.kind {
            ChangeKind::Event => self.events.remove(&change.id).map(Change::Event),
            ChangeKind::Delivery => self.deliveries.remove(&change.id).map(Change::Delivery),
            ChangeKind::DeadLetter => self.dead_letters.remove(&change.id).map(Change::DeadLetter),
        }
    }
}

/// Events as they are shown, and those whose payloads are left for the next step.
async fn with_payloads(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &ChangeFilter,
    keys: &[(EventId, Timestamp)],
    events: Vec<EventSummary>,
) -> Result<(HashMap<Uuid, EventView>, HashSet<Uuid>), Refusal> {
    if !filter.with_payloads {
        let views = events.into_iter().map(|event| (event.id.uuid(), EventView::from(event)));
        return Ok((views.collect(), HashSet::new()));
    }
    let mut known: HashMap<EventId, EventSummary> =
        events.into_iter().map(|event| (event.id, event)).collect();
    let (mut fitting, mut left, mut bytes) = (Vec::new(), HashSet::new(), 0);
    for (id, _) in keys {
        let Some(event) = known.remove(id) else { continue };
        bytes += event.payload_bytes;
        if bytes <= SHOWN_BYTES_MAX || fitting.is_empty() {
            fitting.push(event);
        } else {
            left.insert(id.uuid());
        }
    }
    let page = Page { data: fitting, next_cursor: None };
    let page = subsystems.store.with_payloads(org, page, usize::MAX).await?;
    let views = page.data.into_iter().map(|shown| (shown.0.id.uuid(), EventView::from(shown)));
    Ok((views.collect(), left))
}
