//! The events of an account in an hour, counted by type and by user, and minute by minute.
//!
//! A row has two parts: the totals of the hour, which a long window reads, and the minutes, of which a window reads
//! those of the hours at its edges. So every window that begins on a minute is exact, however old it is, and an hour of
//! a small account is a row of some fifty bytes.
//!
//! **Invariant:** types and users have the same places in both parts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::delta::{EventRecord, corrupt};
use crate::domain::{HOUR_MINUTES, minute_of};
use crate::store::Result;

/// Types of an account in an hour that are counted by name.
pub const TYPES_COUNTED_MAX: usize = 1_000;
/// Users of an account in an hour that are counted by name.
pub const USERS_COUNTED_MAX: usize = 1_000;
/// What further types count as.
pub const OTHER_TYPES: &str = "other";

/// How many events, and bytes of their payloads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventCount {
    /// Events.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// What an account has sent in an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EventHour {
    pub(super) types: BTreeMap<String, TypeHour>,
    pub(super) users: BTreeMap<String, UserHour>,
    /// Users beyond those that are counted by name.
    pub(super) other_users: UserHour,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TypeHour {
    pub(super) total: EventCount,
    pub(super) minutes: BTreeMap<u8, EventCount>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UserHour {
    pub(super) events: u64,
    pub(super) minutes: BTreeMap<u8, u64>,
}

/// The first part of a row.
#[derive(Serialize, Deserialize)]
pub(super) struct HourTotals<'a> {
    #[serde(borrow)]
    pub(super) types: Vec<(&'a str, u64, u64)>,
    pub(super) users: Vec<(&'a str, u64)>,
    pub(super) other_users: u64,
}

/// The second part of a row.
#[derive(Serialize, Deserialize)]
pub(super) struct HourMinutes {
    pub(super) types: Vec<Vec<(u8, u64, u64)>>,
    pub(super) users: Vec<Vec<(u8, u64)>>,
    pub(super) other_users: Vec<(u8, u64)>,
}

impl EventCount {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

impl EventRecord<'_> {
    /// One event of its size.
    pub(super) const fn count(&self) -> EventCount {
        EventCount { events: 1, bytes: self.bytes }
    }

    /// The hour in which it counts, since 1970, and its minute in there.
    pub(super) fn hour_and_minute(&self) -> (i64, u8) {
        let minute = minute_of(self.at());
        let in_hour = minute.rem_euclid(HOUR_MINUTES);
        (minute.div_euclid(HOUR_MINUTES), u8::try_from(in_hour).unwrap_or(0))
    }
}

impl EventHour {
    /// Counts an event of a type, and of a user if there is one.
    pub(super) fn count(
        &mut self,
        minute: u8,
        event_type: &str,
        user: Option<&str>,
        count: EventCount,
    ) {
        self.type_of(event_type).add(minute, count);
        if let Some(user) = user {
            entry(&mut self.users, user).add(minute, count.events);
        }
    }

    /// Adds the counts of another one.
    pub(super) fn merge(&mut self, other: Self) {
        for (name, hour) in other.types {
            let own = self.type_of(&name);
            hour.minutes.into_iter().for_each(|(minute, count)| own.add(minute, count));
        }
        for (name, hour) in other.users {
            self.users.entry(name).or_default().merge(hour);
        }
        self.other_users.merge(other.other_users);
        self.limit_users();
    }

    /// Events and bytes in all.
    pub(super) fn total(&self) -> EventCount {
        let mut total = EventCount::default();
        self.types.values().for_each(|hour| total.add(hour.total));
        total
    }

    /// The two parts of its row.
    pub(super) fn encode(mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        self.limit_users();
        let of_type = |(name, hour): (&'_ String, &TypeHour)| {
            (name.clone(), hour.total.events, hour.total.bytes)
        };
        let types: Vec<_> = self.types.iter().map(of_type).collect();
        let totals = HourTotals {
            types: types.iter().map(|(name, events, bytes)| (&**name, *events, *bytes)).collect(),
            users: self.users.iter().map(|(name, hour)| (name.as_str(), hour.events)).collect(),
            other_users: self.other_users.events,
        };
        let minute = |(minute, count): (&u8, &EventCount)| (*minute, count.events, count.bytes);
        let minutes = HourMinutes {
            types: self
                .types
                .values()
                .map(|hour| hour.minutes.iter().map(minute).collect())
                .collect(),
            users: self.users.values().map(UserHour::pairs).collect(),
            other_users: self.other_users.pairs(),
        };
        let encode = postcard::to_stdvec(&totals).and_then(|totals| {
            let minutes = postcard::to_stdvec(&minutes)?;
            Ok((totals, minutes))
        });
        encode.map_err(|error| corrupt(&error))
    }

    /// Reads the two parts of a row.
    pub(super) fn decode(totals: &[u8], minutes: &[u8]) -> Result<Self> {
        let (totals, minutes) = (read_totals(totals)?, read_minutes(minutes)?);
        let type_hour = |((name, events, bytes), minutes): ((&str, u64, u64), Vec<_>)| {
            let count = |(minute, events, bytes)| (minute, EventCount { events, bytes });
            let minutes = minutes.into_iter().map(count).collect();
            (name.to_owned(), TypeHour { total: EventCount { events, bytes }, minutes })
        };
        let user_hour = |((name, events), minutes): ((&str, u64), Vec<_>)| {
            (name.to_owned(), UserHour { events, minutes: minutes.into_iter().collect() })
        };
        Ok(Self {
            types: totals.types.into_iter().zip(minutes.types).map(type_hour).collect(),
            users: totals.users.into_iter().zip(minutes.users).map(user_hour).collect(),
            other_users: UserHour {
                events: totals.other_users,
                minutes: minutes.other_users.into_iter().collect(),
            },
        })
    }

    /// The counts of a type, or of [`OTHER_TYPES`] where there are too many.
    fn type_of(&mut self, name: &str) -> &mut TypeHour {
        let is_full = self.types.len() >= TYPES_COUNTED_MAX && !self.types.contains_key(name);
        entry(&mut self.types, if is_full { OTHER_TYPES } else { name })
    }

    /// Keeps the users with the most events.
    fn limit_users(&mut self) {
        let surplus = self.users.len().saturating_sub(USERS_COUNTED_MAX);
        if surplus == 0 {
            return;
        }
        let mut by_events: Vec<_> =
            self.users.iter().map(|(name, hour)| (hour.events, name.clone())).collect();
        by_events.sort_unstable();
        for (_, name) in by_events.into_iter().take(surplus) {
            if let Some(hour) = self.users.remove(&name) {
                self.other_users.merge(hour);
            }
        }
    }
}

impl TypeHour {
    fn add(&mut self, minute: u8, count: EventCount) {
        self.total.add(count);
        self.minutes.entry(minute).or_default().add(count);
    }
}

impl UserHour {
    fn add(&mut self, minute: u8, events: u64) {
        self.events += events;
        *self.minutes.entry(minute).or_default() += events;
    }

    fn merge(&mut self, other: Self) {
        other.minutes.into_iter().for_each(|(minute, events)| self.add(minute, events));
    }

    fn pairs(&self) -> Vec<(u8, u64)> {
        self.minutes.iter().map(|(minute, events)| (*minute, *events)).collect()
    }
}

/// Calls `each` with the minutes of an hour, of one type or of all.
pub(super) fn read_type_minutes(
    totals: &[u8],
    minutes: &[u8],
    event_type: Option<&str>,
    mut each: impl FnMut(u8, EventCount),
) -> Result<()> {
    let (totals, minutes) = (read_totals(totals)?, read_minutes(minutes)?);
    for ((name, ..), minutes) in totals.types.into_iter().zip(minutes.types) {
        if event_type.is_none_or(|wanted| wanted == name) {
            for (minute, events, bytes) in minutes {
                each(minute, EventCount { events, bytes });
            }
        }
    }
    Ok(())
}

pub(super) fn read_totals(totals: &[u8]) -> Result<HourTotals<'_>> {
    postcard::from_bytes(totals).map_err(|error| corrupt(&error))
}

pub(super) fn read_minutes(minutes: &[u8]) -> Result<HourMinutes> {
    postcard::from_bytes(minutes).map_err(|error| corrupt(&error))
}

/// The value of a name.
pub(super) fn entry<'m, T: Default>(map: &'m mut BTreeMap<String, T>, name: &str) -> &'m mut T {
    map.entry(name.to_owned()).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rollups::window_counts::WindowCounts;

    const ONE: EventCount = EventCount { events: 1, bytes: 10 };

    #[test]
    fn row_survives_a_round_trip_and_adds_up() {
        let mut hour = EventHour::default();
        hour.count(0, "a", Some("u1"), ONE);
        hour.count(59, "a", Some("u2"), ONE);
        hour.count(7, "b", None, ONE);
        let (totals, minutes) = hour.clone().encode().unwrap();
        let mut read = EventHour::decode(&totals, &minutes).unwrap();
        assert_eq!(read, hour);
        read.merge(hour);
        assert_eq!(read.total(), EventCount { events: 6, bytes: 60 });
        let (totals, minutes) = read.encode().unwrap();
        let mut window = WindowCounts::default();
        window.add_hour(&totals).unwrap();
        assert_eq!(window.types["a"], EventCount { events: 4, bytes: 40 });
        assert_eq!(window.users, BTreeMap::from([("u1".to_owned(), 2), ("u2".to_owned(), 2)]));
        let mut part = WindowCounts::default();
        part.add_minutes(&totals, &minutes, &(7..60)).unwrap();
        assert_eq!(part.types["a"].events, 2);
        assert_eq!(part.types["b"].events, 2);
        assert_eq!(part.users, BTreeMap::from([("u2".to_owned(), 2)]));
        let mut of_b = Vec::new();
        read_type_minutes(&totals, &minutes, Some("b"), |minute, count| {
            of_b.push((minute, count.events));
        })
        .unwrap();
        assert_eq!(of_b, [(7, 2)]);
    }

    #[test]
    fn users_beyond_the_limit_are_summed_up_and_the_most_active_stay() {
        let mut hour = EventHour::default();
        for user in 0..=USERS_COUNTED_MAX {
            hour.count(1, "a", Some(&format!("u{user:04}")), ONE);
        }
        hour.count(2, "a", Some("u1000"), ONE);
        let (totals, minutes) = hour.encode().unwrap();
        let mut window = WindowCounts::default();
        window.add_hour(&totals).unwrap();
        assert_eq!((window.users.len(), window.other_users), (USERS_COUNTED_MAX, 1));
        assert_eq!((window.users["u1000"], window.users.get("u0000")), (2, None));
        let mut part = WindowCounts::default();
        part.add_minutes(&totals, &minutes, &(1..2)).unwrap();
        assert_eq!(part.other_users, 1);
    }

    #[test]
    fn types_beyond_the_limit_are_other() {
        let mut hour = EventHour::default();
        for number in 0..TYPES_COUNTED_MAX + 5 {
            hour.count(1, &format!("t{number}"), None, ONE);
        }
        hour.count(1, "t0", None, ONE);
        assert_eq!(hour.total().events, 1_006);
        assert_eq!(hour.types[OTHER_TYPES].total.events, 5);
        assert_eq!(hour.types["t0"].total.events, 2);
    }
}
