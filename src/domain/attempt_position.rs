//! Positions in the list of an endpoint's attempts: a delivery, and how far its attempts were read.
//!
//! A delivery is created on a millisecond, so the microseconds of a position's time are free. None means that all of the
//! delivery was read, as positions of earlier versions do; otherwise they tell the attempt that was read last.

use uuid::Uuid;

use super::{Cursor, DeliveryId, ListOrder, Timestamp};

/// Numbers of attempts that are told apart: more than are listed of one delivery.
const NUMBERS: i64 = 999;

/// A delivery whose attempts were read up to one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartlyRead {
    delivery: Cursor,
    /// The remainder of the number of the attempt that was read last.
    remainder: i64,
}

/// The position of an attempt.
pub fn attempt_position(delivery: DeliveryId, number: u32) -> Cursor {
    let micros = i64::from(number) % NUMBERS + 1;
    let at = Timestamp::from_micros(delivery.created_at().micros() + micros);
    Cursor { at, id: delivery.uuid() }
}

impl PartlyRead {
    /// What a position tells; `None` when all of its delivery was read.
    pub fn of(position: Cursor) -> Option<Self> {
        let created_at = position.at.floor_ms();
        let micros = position.at.micros() - created_at.micros();
        let delivery = Cursor { at: created_at, ..position };
        (micros > 0).then(|| Self { delivery, remainder: micros - 1 })
    }

    /// Whether it is this delivery.
    pub fn is(self, delivery: DeliveryId) -> bool {
        self.delivery.id == delivery.uuid()
    }

    /// The position after which the delivery is the first one.
    pub fn before(self, order: ListOrder) -> Cursor {
        let id = self.delivery.id.as_u128();
        let id = match order {
            ListOrder::NewestFirst => id.saturating_add(1),
            ListOrder::OldestFirst => id.saturating_sub(1),
        };
        Cursor { id: Uuid::from_u128(id), ..self.delivery }
    }

    /// The number of the attempt that was read last, of so many.
    pub fn last_read(self, attempts: u32) -> u32 {
        let attempts = i64::from(attempts);
        let number = attempts - (attempts - self.remainder).rem_euclid(NUMBERS);
        u32::try_from(number).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_tells_the_attempt_that_was_read_last() {
        let delivery = DeliveryId::mint(Timestamp::from_micros(1_700_000_000_000_000));
        for (number, attempts) in [(1, 1), (1, 100), (998, 999), (999, 999), (1_000, 1_050)] {
            let partly = PartlyRead::of(attempt_position(delivery, number)).unwrap();
            assert!(partly.is(delivery));
            assert_eq!(partly.last_read(attempts), number);
        }
        let whole = Cursor { at: delivery.created_at(), id: delivery.uuid() };
        assert_eq!(PartlyRead::of(whole), None);
    }

    #[test]
    fn delivery_is_the_first_one_after_the_position_before_it() {
        let delivery = DeliveryId::mint(Timestamp::from_micros(1_700_000_000_000_000));
        let partly = PartlyRead::of(attempt_position(delivery, 7)).unwrap();
        let whole = Cursor { at: delivery.created_at(), id: delivery.uuid() };
        for order in [ListOrder::NewestFirst, ListOrder::OldestFirst] {
            assert!(order.is_before(partly.before(order), whole));
        }
    }
}
