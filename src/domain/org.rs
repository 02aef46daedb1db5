//! Organisations: the tenants, with their limits and their lifecycle.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use super::{EventTypeRates, OrgId, Revision, Timestamp, Violation};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its display name; not unique. Empty once it is deleted.
    pub name: String,
    /// Its limits.
    pub limits: OrgLimits,
    /// Its limits by event type, set by operators.
    pub event_type_rates: EventTypeRates,
    /// Its limits by event type, set by itself. They lower those of operators and never raise one.
    pub own_event_type_rates: EventTypeRates,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when it is suspended: its keys are refused and its deliveries wait.
    pub suspended_at: Option<Timestamp>,
    /// Its deletion, in progress or done.
    pub deletion: Option<OrgDeletion>,
}

/// The progress of the deletion of an organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct OrgDeletion {
    /// When it was requested. Nothing of the organisation can be used since.
    pub since: Timestamp,
    /// Rows deleted so far.
    pub rows: u64,
    /// When it was done; `None` while it is in progress.
    pub done_at: Option<Timestamp>,
}

/// A limit of an organisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OrgLimit {
    /// Events per minute.
    RatePerMinute,
    /// Events at once (burst).
    Burst,
    /// Bytes of request bodies per minute.
    BytesPerMinute,
    /// Events per calendar month in UTC.
    EventsPerMonth,
    /// Endpoints.
    Endpoints,
    /// Active keys.
    Keys,
    /// Bytes of an event's payload.
    PayloadBytes,
    /// Deliveries, per minute, that accepted events become.
    DeliveriesPerMinute,
    /// Days that events and deliveries are kept.
    RetentionDays,
    /// Days that payloads and response excerpts are kept.
    PayloadRetentionDays,
}

/// The limits of an organisation. A limit that is not set follows the server's setting, or is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrgLimits([Option<u32>; OrgLimit::ALL.len()]);

/// A change of an organisation; `None` leaves a field unchanged.
#[derive(Clone, Debug, Default)]
pub struct OrgChange {
    /// A new name.
    pub name: Option<String>,
    /// New limits; `None` removes one.
    pub limits: Vec<(OrgLimit, Option<u32>)>,
    /// New limits by event type, instead of all earlier ones.
    pub event_type_rates: Option<EventTypeRates>,
    /// New limits by event type that the organisation sets itself, instead of all earlier ones.
    pub own_event_type_rates: Option<EventTypeRates>,
}

impl OrgLimit {
    /// Every limit, in the order of the store's columns.
    pub const ALL: [Self; 10] = [
        Self::RatePerMinute,
        Self::Burst,
        Self::BytesPerMinute,
        Self::EventsPerMonth,
        Self::Endpoints,
        Self::Keys,
        Self::PayloadBytes,
        Self::DeliveriesPerMinute,
        Self::RetentionDays,
        Self::PayloadRetentionDays,
    ];

    /// Its field name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RatePerMinute => "rate_limit_per_minute",
            Self::Burst => "burst",
            Self::BytesPerMinute => "bytes_per_minute",
            Self::EventsPerMonth => "events_per_month",
            Self::Endpoints => "endpoints_max",
            Self::Keys => "keys_max",
            Self::PayloadBytes => "payload_bytes_max",
            Self::DeliveriesPerMinute => "deliveries_per_minute",
            Self::RetentionDays => "retention_days",
            Self::PayloadRetentionDays => "payload_retention_days",
        }
    }

    /// Its range: from 1 for limits per minute and in bytes, from 0 for the others.
    pub const fn range(self) -> RangeInclusive<u32> {
        match self {
            // More than one process can accept.
            Self::RatePerMinute | Self::Burst => 1..=100_000_000,
            Self::DeliveriesPerMinute => 1..=1_000_000_000,
            Self::BytesPerMinute | Self::PayloadBytes => 1..=u32::MAX,
            Self::EventsPerMonth => 0..=u32::MAX,
            Self::Endpoints | Self::Keys => 0..=1_000_000,
            // A hundred years.
            Self::RetentionDays | Self::PayloadRetentionDays => 1..=36_500,
        }
    }

    /// Checks a value.
    pub fn check(self, value: u32) -> Result<(), Violation> {
        let range = self.range();
        if range.contains(&value) { Ok(()) } else { Err(Violation::range(self.name(), &range)) }
    }
}

impl OrgLimits {
    /// The value of a limit, if set.
    pub const fn get(&self, limit: OrgLimit) -> Option<u32> {
        self.0[limit as usize]
    }

    /// The limits with this one set, or removed.
    pub fn with(mut self, limit: OrgLimit, value: Option<u32>) -> Self {
        self.0[limit as usize] = value;
        self
    }

    /// The limits with those of `defaults` where none is set.
    pub fn or(&self, defaults: &Self) -> Self {
        Self(std::array::from_fn(|limit| self.0[limit].or(defaults.0[limit])))
    }

    /// Checks that payloads are not to be kept longer than the events that they belong to.
    pub fn check_retention(&self) -> Result<(), Violation> {
        let days = |limit| self.get(limit);
        match (days(OrgLimit::PayloadRetentionDays), days(OrgLimit::RetentionDays)) {
            (Some(payloads), Some(events)) if payloads > events => {
                let rule = format!("must be at most the {events} days of retention_days");
                Err(Violation::new(OrgLimit::PayloadRetentionDays.name(), "range", rule))
            }
            _ => Ok(()),
        }
    }

    /// Every limit with its value.
    pub fn iter(&self) -> impl Iterator<Item = (OrgLimit, Option<u32>)> {
        OrgLimit::ALL.into_iter().zip(self.0)
    }
}

impl Serialize for OrgLimits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(OrgLimit::ALL.len()))?;
        for (limit, value) in self.iter() {
            map.serialize_entry(limit.name(), &value)?;
        }
        map.end()
    }
}

impl Org {
    /// Maximum bytes of a name.
    pub const NAME_BYTES_MAX: usize = 128;

    /// A new organisation without limits of its own.
    pub fn new(id: OrgId, name: impl Into<String>, created_at: Timestamp) -> Self {
        Self {
            id,
            name: name.into(),
            limits: OrgLimits::default(),
            event_type_rates: EventTypeRates::default(),
            own_event_type_rates: EventTypeRates::default(),
            created_at,
            suspended_at: None,
            deletion: None,
        }
    }

    /// Its state.
    pub fn state(&self) -> OrgState {
        match (&self.deletion, self.suspended_at) {
            (Some(OrgDeletion { done_at: Some(_), .. }), _) => OrgState::Deleted,
            (Some(_), _) => OrgState::Deleting,
            (None, Some(_)) => OrgState::Suspended,
            (None, None) => OrgState::Active,
        }
    }

    /// Checks a name, of an organisation or a key. Names that look like another or like none would mislead
    /// readers of a list.
    pub fn check_name(name: &str) -> Result<(), Violation> {
        let rule = "must be 1 to 128 bytes, not blanks alone, without control, bidirectional and \
                    zero-width characters";
        let is_blank = |c: char| c.is_whitespace() || JOINERS.contains(&c);
        if name.chars().all(is_blank) || name.len() > Self::NAME_BYTES_MAX {
            return Err(Violation::new("name", "length", rule));
        }
        if name.chars().any(is_unseen) {
            return Err(Violation::new("name", "format", rule));
        }
        Ok(())
    }
}

/// Format characters that Persian and Indic names and joined emoji need.
const JOINERS: [char; 2] = ['\u{200c}', '\u{200d}'];

/// Whether a character is a control or format character or a line or paragraph separator: categories Cc, Cf,
/// Zl and Zp of the Unicode Standard, section 4.5. Such characters are invisible or reorder their neighbours.
fn is_unseen(character: char) -> bool {
    use GeneralCategory as C;
    let category = character.general_category();
    matches!(category, C::Control | C::Format | C::LineSeparator | C::ParagraphSeparator)
        && !JOINERS.contains(&character)
}

impl Org {
    /// Its state, for those who change it: without the progress of its deletion.
    pub fn revision(&self) -> Revision {
        let deletion = self.deletion.map(|deletion| OrgDeletion { rows: 0, ..deletion });
        Revision::of(&Self { deletion, ..self.clone() })
    }

    /// Its limits by event type that hold: the lower of those set by operators and by itself.
    pub fn effective_event_type_rates(&self) -> EventTypeRates {
        self.event_type_rates.lower(&self.own_event_type_rates)
    }
}

/// The state of an organisation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum OrgState {
    /// In use.
    Active,
    /// Suspended by an operator.
    Suspended,
    /// Being deleted; nothing of it can be used.
    Deleting,
    /// Deleted; only its id is left.
    Deleted,
}

/// As the API shows it to operators.
impl Serialize for Org {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry("state", &self.state())?;
        for (limit, value) in self.limits.iter() {
            map.serialize_entry(limit.name(), &value)?;
        }
        map.serialize_entry("event_type_rates", &self.event_type_rates)?;
        map.serialize_entry("own_event_type_rates", &self.own_event_type_rates)?;
        map.serialize_entry("created_at", &self.created_at)?;
        map.serialize_entry("suspended_at", &self.suspended_at)?;
        map.serialize_entry("deletion", &self.deletion)?;
        map.end()
    }
}

impl OrgChange {
    /// Whether it sets how long something is kept.
    pub fn sets_retention(&self) -> bool {
        let is_retention =
            |limit| matches!(limit, OrgLimit::RetentionDays | OrgLimit::PayloadRetentionDays);
        self.limits.iter().any(|(limit, _)| is_retention(*limit))
    }

    /// Applies the change to an organisation.
    pub fn apply(&self, org: &mut Org) {
        if let Some(name) = &self.name {
            org.name.clone_from(name);
        }
        for (limit, value) in &self.limits {
            org.limits = org.limits.with(*limit, *value);
        }
        if let Some(rates) = &self.event_type_rates {
            org.event_type_rates.clone_from(rates);
        }
        if let Some(rates) = &self.own_event_type_rates {
            org.own_event_type_rates.clone_from(rates);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_invisible_characters_are_refused() {
        for good in [
            "a",
            "Acme Ltd",
            "Café Ωmega 株式会社",
            "شركة",
            "a\u{301} \u{1f680}",
            "نمی\u{200c}دانم",
            &"x".repeat(128),
        ] {
            assert_eq!(Org::check_name(good), Ok(()), "{good:?}");
        }
        let code = |name: &str| Org::check_name(name).unwrap_err().code;
        for none in ["", "   ", "\u{200c}", "\u{3000}\u{a0}", "\t", &"x".repeat(129)] {
            assert_eq!(code(none), "length", "{none:?}");
        }
        for unseen in
            ['\0', '\n', '\u{7f}', '\u{ad}', '\u{200b}', '\u{200e}', '\u{200f}', '\u{2028}']
        {
            assert_eq!(code(&format!("a{unseen}b")), "format", "{unseen:?}");
        }
        for unseen in ['\u{202a}', '\u{202e}', '\u{2060}', '\u{2069}', '\u{feff}', '\u{e0041}'] {
            assert_eq!(code(&format!("a{unseen}b")), "format", "{unseen:?}");
        }
        let rule = Org::check_name(" ").unwrap_err().message;
        assert!(rule.contains("not blanks alone") && rule.contains("zero-width"), "{rule}");
    }

    #[test]
    fn limits_keep_their_positions_and_have_ranges() {
        let limits =
            OrgLimits::default().with(OrgLimit::Keys, Some(3)).with(OrgLimit::Burst, Some(7));
        assert_eq!((limits.get(OrgLimit::Keys), limits.get(OrgLimit::Burst)), (Some(3), Some(7)));
        assert_eq!(limits.with(OrgLimit::Keys, None).get(OrgLimit::Keys), None);
        let defaults =
            OrgLimits::default().with(OrgLimit::Keys, Some(9)).with(OrgLimit::Endpoints, Some(9));
        let effective = limits.or(&defaults);
        let of = |limit| effective.get(limit);
        assert_eq!((of(OrgLimit::Keys), of(OrgLimit::Endpoints)), (Some(3), Some(9)));
        for (position, limit) in OrgLimit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, position);
        }
        assert!(OrgLimit::RatePerMinute.check(0).is_err());
        assert!(OrgLimit::EventsPerMonth.check(0).is_ok());
        let rule = "must be a whole number from 0 to 1000000, in digits";
        assert_eq!(OrgLimit::Keys.check(1_000_001).unwrap_err().message, rule);
        let kept = |events, payloads| {
            OrgLimits::default()
                .with(OrgLimit::RetentionDays, events)
                .with(OrgLimit::PayloadRetentionDays, payloads)
                .check_retention()
        };
        assert!(kept(Some(7), Some(7)).is_ok() && kept(None, Some(7)).is_ok());
        let longer = kept(Some(7), Some(8)).unwrap_err();
        assert_eq!(longer.field, "payload_retention_days");
        assert!(longer.message.contains("at most the 7 days"), "{}", longer.message);
    }
}
