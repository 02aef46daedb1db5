//! Takes events that are erased back from the counts of an hour.

use super::event_hour::{EventCount, EventHour, OTHER_TYPES, TypeHour, UserHour};

impl EventHour {
    /// Takes an event back that was counted. `false` when there is none like it.
    pub(super) fn take(
        &mut self,
        minute: u8,
        event_type: &str,
        user: Option<&str>,
        count: EventCount,
    ) -> bool {
        // What was beyond a limit is counted without its name.
        let is_named = self.types.get(event_type).is_some_and(|hour| hour.has(minute));
        let name = if is_named { event_type } else { OTHER_TYPES };
        let Some(hour) = self.types.get_mut(name).filter(|hour| hour.has(minute)) else {
            return false;
        };
        hour.take(minute, count);
        if hour.total.events == 0 {
            self.types.remove(name);
        }
        if let Some(user) = user {
            match self.users.get_mut(user).filter(|hour| hour.minutes.contains_key(&minute)) {
                Some(hour) => hour.take(minute),
                None => self.other_users.take(minute),
            }
            if self.users.get(user).is_some_and(|hour| hour.events == 0) {
                self.users.remove(user);
            }
        }
        true
    }
}

impl TypeHour {
    fn has(&self, minute: u8) -> bool {
        self.minutes.contains_key(&minute)
    }

    /// Takes from a minute, with the last event all of its bytes: a payload may have been removed since it was counted.
    fn take(&mut self, minute: u8, count: EventCount) {
        let Some(in_minute) = self.minutes.get_mut(&minute) else { return };
        let taken = if in_minute.events <= count.events {
            self.minutes.remove(&minute).unwrap_or_default()
        } else {
            let bytes = count.bytes.min(in_minute.bytes);
            in_minute.events -= count.events;
            in_minute.bytes -= bytes;
            EventCount { events: count.events, bytes }
        };
        self.total.events = self.total.events.saturating_sub(taken.events);
        self.total.bytes = self.total.bytes.saturating_sub(taken.bytes);
    }
}

impl UserHour {
    /// Takes one event from a minute.
    fn take(&mut self, minute: u8) {
        let Some(events) = self.minutes.get_mut(&minute) else { return };
        *events = events.saturating_sub(1);
        if *events == 0 {
            self.minutes.remove(&minute);
        }
        self.events = self.events.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::super::event_hour::TYPES_COUNTED_MAX;
    use super::*;

    const ONE: EventCount = EventCount { events: 1, bytes: 10 };

    #[test]
    fn event_that_is_taken_back_leaves_nothing_of_itself() {
        let mut hour = EventHour::default();
        hour.count(1, "a", Some("u1"), ONE);
        let one = hour.clone();
        hour.count(1, "a", Some("u2"), EventCount { events: 1, bytes: 3 });
        hour.count(2, "b", None, ONE);
        assert!(hour.take(2, "b", None, ONE));
        assert!(!hour.take(2, "b", None, ONE));
        assert!(!hour.take(1, "c", Some("u1"), ONE));
        assert!(hour.take(1, "a", Some("u2"), EventCount { events: 1, bytes: 3 }));
        assert_eq!(hour, one);
        // Its payload has been removed since.
        assert!(hour.take(1, "a", Some("u1"), EventCount { events: 1, bytes: 0 }));
        assert_eq!(hour, EventHour::default());
    }

    #[test]
    fn event_beyond_the_limits_is_taken_from_the_sums() {
        let mut hour = EventHour::default();
        for number in 0..=TYPES_COUNTED_MAX {
            hour.count(1, &format!("t{number}"), Some(&format!("u{number:04}")), ONE);
        }
        let (totals, minutes) = hour.encode().unwrap();
        let mut hour = EventHour::decode(&totals, &minutes).unwrap();
        assert!(hour.take(1, "t1000", Some("u0000"), ONE));
        assert_eq!(hour.total().events, 1_000);
        assert_eq!((hour.types.get(OTHER_TYPES), hour.other_users.events), (None, 0));
    }
}
