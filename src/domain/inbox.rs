//! Inboxes: endpoints of kind `pull`, whose owner fetches the events and settles each.
//!
//! ```text
//!            received: hidden for the visibility time
//!  waiting ───────────────────────────────────────────▶ in flight ── ack ──▶ delivered
//!     ▲                                                    │
//!     └── the time is over, or it is given back (nack) ◀───┤
//!                                                          └── received `max_receives` times ──▶ dead letter
//! ```

use std::ops::RangeInclusive;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DeliveryId, EndpointId, Event, EventId, Timestamp, Violation};

/// How an inbox gives events out; `None` follows the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InboxSettings {
    /// Seconds for which a received event is hidden from other consumers, where a request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visibility_seconds: Option<u32>,
    /// How often an event is received at most. One that is still not settled then becomes a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_receives: Option<u32>,
}

impl InboxSettings {
    /// The range of `visibility_seconds`: up to twelve hours.
    pub const VISIBILITY_SECONDS: RangeInclusive<u32> = 1..=43_200;
    /// Where nothing says otherwise.
    pub const VISIBILITY_SECONDS_DEFAULT: u32 = 30;
    /// The range of `max_receives`.
    pub const MAX_RECEIVES: RangeInclusive<u32> = 1..=1_000;
    /// Where nothing says otherwise.
    pub const MAX_RECEIVES_DEFAULT: u32 = 10;

    /// Seconds for which a received event is hidden.
    pub fn visibility_seconds(self) -> u32 {
        self.visibility_seconds.unwrap_or(Self::VISIBILITY_SECONDS_DEFAULT)
    }

    /// How often an event is received at most.
    pub fn max_receives(self) -> u32 {
        self.max_receives.unwrap_or(Self::MAX_RECEIVES_DEFAULT)
    }

    /// The names of the settings that are set.
    pub fn names_set(self) -> impl Iterator<Item = &'static str> {
        let Self { visibility_seconds, max_receives } = self;
        let set = [
            visibility_seconds.map(|_| "visibility_seconds"),
            max_receives.map(|_| "max_receives"),
        ];
        set.into_iter().flatten()
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first violation.
    pub fn check(self) -> Result<(), Violation> {
        let Self { visibility_seconds, max_receives } = self;
        let numbers = [
            ("visibility_seconds", visibility_seconds, Self::VISIBILITY_SECONDS),
            ("max_receives", max_receives, Self::MAX_RECEIVES),
        ];
        for (field, number, range) in numbers {
            if number.is_some_and(|number| !range.contains(&number)) {
                return Err(Violation::range(field, &range));
            }
        }
        Ok(())
    }
}

/// A change of [`InboxSettings`]; `None` leaves a field unchanged, `Some(None)` resets it to the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct InboxSettingsChange {
    /// See [`InboxSettings::visibility_seconds`].
    pub visibility_seconds: Option<Option<u32>>,
    /// See [`InboxSettings::max_receives`].
    pub max_receives: Option<Option<u32>>,
}

impl InboxSettingsChange {
    /// Applies the change.
    pub fn apply(self, settings: &mut InboxSettings) {
        let Self { visibility_seconds, max_receives } = self;
        settings.visibility_seconds = visibility_seconds.unwrap_or(settings.visibility_seconds);
        settings.max_receives = max_receives.unwrap_or(settings.max_receives);
    }
}

/// An inbox, as far as those who fetch from it need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inbox {
    /// The endpoint.
    pub id: EndpointId,
    /// Whether it gives out one event at a time, in their order.
    pub ordered: bool,
    /// How it gives events out.
    pub settings: InboxSettings,
    /// Why it is disabled; `None` while it is enabled.
    pub disabled_reason: Option<String>,
    /// When somebody last fetched from it, to the minute, or it was last enabled again.
    pub last_read_at: Option<Timestamp>,
}

/// Why an inbox is disabled that nobody read for `INBOX_IDLE_MAX`. The next read enables it.
pub const INBOX_IDLE: &str = "paused: nobody has read the inbox for INBOX_IDLE_MAX";

impl Inbox {
    /// Whether it is disabled only because nobody read it.
    pub fn is_paused(&self) -> bool {
        self.disabled_reason.as_deref() == Some(INBOX_IDLE)
    }
}

/// An event that a consumer has received.
#[derive(Clone, Debug)]
pub struct ReceivedEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Its delivery to the inbox.
    pub delivery_id: DeliveryId,
    /// How often it was received, this time included.
    pub receive_count: u32,
    /// When it is given out again unless it is settled before.
    pub lease_expires_at: Timestamp,
}

/// What became of an event that a consumer wants to settle or give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SettleStatus {
    /// It is settled, now or before.
    Acked,
    /// It is given back.
    Returned,
    /// It is a dead letter.
    Dead,
    /// Its delivery was cancelled.
    Cancelled,
    /// It waits: nobody has received it, or nobody has since it was given back.
    NotReceived,
    /// The inbox never had it, or no longer knows it.
    Unknown,
}

/// An event that a consumer wanted to settle or give back, and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub struct Settled {
    /// The event.
    pub id: EventId,
    /// What became of it.
    pub status: SettleStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_ranges_and_defaults() {
        let settings = InboxSettings::default();
        assert_eq!((settings.visibility_seconds(), settings.max_receives()), (30, 10));
        assert_eq!(settings.check(), Ok(()));
        for (visibility_seconds, max_receives, field) in [
            (Some(0), None, "visibility_seconds"),
            (Some(43_201), None, "visibility_seconds"),
            (None, Some(0), "max_receives"),
            (None, Some(1_001), "max_receives"),
        ] {
            let settings = InboxSettings { visibility_seconds, max_receives };
            assert_eq!(settings.check().unwrap_err().field, field);
            assert_eq!(settings.names_set().collect::<Vec<_>>(), [field]);
        }
    }

    #[test]
    fn change_sets_resets_and_keeps() {
        let mut settings = InboxSettings { visibility_seconds: Some(5), max_receives: Some(6) };
        let change = InboxSettingsChange {
            visibility_seconds: Some(None),
            ..InboxSettingsChange::default()
        };
        change.apply(&mut settings);
        assert_eq!(settings, InboxSettings { visibility_seconds: None, max_receives: Some(6) });
    }
}
