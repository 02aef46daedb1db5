//! Counts of a window, summed up over its hours, with a bound on the names that they have.

use std::collections::BTreeMap;
use std::ops::Range;

use super::delta::EventRecord;
use super::event_hour::{EventCount, HourTotals, OTHER_TYPES, entry, read_minutes, read_totals};
use crate::store::Result;

/// Types, and users, of a window that are counted by name: an hour has a thousand at most, and may have others than every
/// other hour. Up to twice as many are held.
const NAMES_MAX: usize = 20_000;

/// Counts of a window, summed up over its hours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// By type.
    pub types: BTreeMap<String, EventCount>,
    /// By user.
    pub users: BTreeMap<String, u64>,
    /// Events of users beyond those that are counted by name.
    pub other_users: u64,
}

impl WindowCounts {
    /// Adds the totals of an hour.
    pub(super) fn add_hour(&mut self, totals: &[u8]) -> Result<()> {
        let HourTotals { types, users, other_users } = read_totals(totals)?;
        for (name, events, bytes) in types {
            entry(&mut self.types, name).add(EventCount { events, bytes });
        }
        for (name, events) in users {
            *entry(&mut self.users, name) += events;
        }
        self.other_users += other_users;
        self.limit();
        Ok(())
    }

    /// Adds some minutes of an hour.
    pub(super) fn add_minutes(
        &mut self,
        totals: &[u8],
        minutes: &[u8],
        part: &Range<u8>,
    ) -> Result<()> {
        let (totals, minutes) = (read_totals(totals)?, read_minutes(minutes)?);
        for ((name, ..), minutes) in totals.types.into_iter().zip(minutes.types) {
            for (_, events, bytes) in
                minutes.into_iter().filter(|(minute, ..)| part.contains(minute))
            {
                entry(&mut self.types, name).add(EventCount { events, bytes });
            }
        }
        let in_part = |minutes: Vec<(u8, u64)>| -> u64 {
            let is_in = |(minute, _): &(u8, u64)| part.contains(minute);
            minutes.into_iter().filter(is_in).map(|(_, events)| events).sum()
        };
        for ((name, _), minutes) in totals.users.into_iter().zip(minutes.users) {
            let events = in_part(minutes);
            if events > 0 {
                *entry(&mut self.users, name) += events;
            }
        }
        self.other_users += in_part(minutes.other_users);
        self.limit();
        Ok(())
    }

    /// Adds an event that is not in the rollups yet.
    pub(super) fn add_event(&mut self, record: &EventRecord<'_>, user: Option<&str>) {
        entry(&mut self.types, record.event_type).add(record.count());
        if let Some(user) = user {
            *entry(&mut self.users, user) += 1;
        }
    }

    /// Sums up the types and users with the fewest events where there are too many.
    pub(super) fn limit(&mut self) {
        let mut other = EventCount::default();
        keep_most(&mut self.types, NAMES_MAX, |count| count.events, |count| other.add(*count));
        if other.events > 0 {
            entry(&mut self.types, OTHER_TYPES).add(other);
        }
        let other_users = &mut self.other_users;
        keep_most(&mut self.users, NAMES_MAX, |events| *events, |events| *other_users += events);
    }
}

/// Where a map has twice as many names as `max`, keeps so many, those with the most events. `drop` is told the others.
pub(super) fn keep_most<T>(
    counts: &mut BTreeMap<String, T>,
    max: usize,
    events: impl Fn(&T) -> u64,
    mut drop: impl FnMut(&T),
) {
    if counts.len() < 2 * max {
        return;
    }
    let mut all: Vec<u64> = counts.values().map(&events).collect();
    let (more, least, _) = all.select_nth_unstable_by(max - 1, |one, other| other.cmp(one));
    let least = *least;
    // Of those with as few as the last that stays, the first by name.
    let mut ties = max - more.iter().filter(|events| **events > least).count();
    counts.retain(|_, count| {
        let is_tie = events(count) == least && ties > 0;
        ties -= usize::from(is_tie);
        let stays = is_tie || events(count) > least;
        if !stays {
            drop(count);
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_the_most_events_stay_and_the_others_are_told() {
        let all = || (0..8_u64).map(|number| (format!("u{number}"), number / 2));
        let mut counts: BTreeMap<String, u64> = all().take(7).collect();
        let mut dropped = 0;
        let mut keep = |counts: &mut BTreeMap<_, _>, max| {
            keep_most(counts, max, |events| *events, |events| dropped += events);
        };
        keep(&mut counts, 4);
        assert_eq!(counts.len(), 7, "there are not twice as many");
        let mut counts: BTreeMap<String, u64> = all().collect();
        keep(&mut counts, 3);
        let expected = [("u4", 2), ("u6", 3), ("u7", 3)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!((counts, dropped), (BTreeMap::from(expected), 4));
    }

    #[test]
    fn window_with_too_many_names_sums_up_the_rest() {
        let mut window = WindowCounts { other_users: 1, ..WindowCounts::default() };
        let count = |events| EventCount { events, bytes: 2 * events };
        for number in 0..2 * NAMES_MAX {
            let events = 1 + u64::from(number < 3);
            window.types.insert(format!("t{number:06}"), count(events));
            window.users.insert(format!("u{number:06}"), events);
        }
        window.limit();
        assert_eq!((window.types.len(), window.users.len()), (NAMES_MAX + 1, NAMES_MAX));
        assert_eq!(window.types[OTHER_TYPES], count(NAMES_MAX as u64));
        assert_eq!((window.other_users, window.users["u000002"]), (1 + NAMES_MAX as u64, 2));
    }
}
