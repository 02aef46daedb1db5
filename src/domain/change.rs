//! Changes: what has happened in an organisation, in the order in which it was stored.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use strum::{EnumString, IntoStaticStr, VariantNames};
use uuid::Uuid;

use super::Timestamp;

/// Of what a change is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumString, IntoStaticStr, VariantNames)]
#[strum(serialize_all = "snake_case", parse_err_ty = ChangeKindError, parse_err_fn = unknown_kind)]
pub enum ChangeKind {
    /// An event was stored.
    Event,
    /// An attempt of a delivery ended.
    Delivery,
    /// A delivery was given up.
    DeadLetter,
}

/// The text is not a kind of change.
#[derive(Debug, thiserror::Error)]
#[error("must be event, delivery or dead_letter")]
pub struct ChangeKindError;

fn unknown_kind(_: &str) -> ChangeKindError {
    ChangeKindError
}

impl ChangeKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Event, Self::Delivery, Self::DeadLetter];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A change: the key of what has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoggedChange {
    /// Of what it is.
    pub kind: ChangeKind,
    /// The id of the event, the delivery or the dead letter.
    pub id: Uuid,
    /// When an event was accepted, or a delivery created.
    pub at: Timestamp,
}

impl LoggedChange {
    /// Bytes of one in [`Self::write`]'s form.
    pub const BYTES: usize = 1 + 16 + 8;

    /// Appends its form in the store.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.push(self.kind as u8);
        to.extend_from_slice(self.id.as_bytes());
        to.extend_from_slice(&self.at.micros().to_be_bytes());
    }

    /// Reads [`Self::write`]'s form; `None` if it is none.
    pub fn read(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (id, at) = rest.split_first_chunk::<16>()?;
        let kind = ChangeKind::ALL.into_iter().find(|known| *known as u8 == *kind)?;
        let at = Timestamp::from_micros(i64::from_be_bytes(at.try_into().ok()?));
        Some(Self { kind, id: Uuid::from_bytes(*id), at })
    }
}

/// How far somebody has followed the changes of an organisation. As text it is the id of an event of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangeCursor {
    /// The transaction, and the number in it.
    pub tx: i64,
    /// See `tx`.
    pub seq: i64,
    /// How many changes of it were seen.
    pub seen: u32,
    /// When the follower was here, in seconds since 1970: changes are kept for a while only.
    pub at_seconds: i64,
}

/// The text is not a position in a stream of changes.
#[derive(Debug, thiserror::Error)]
#[error("must be the id of the last event that was received, as the stream gave it")]
pub struct ChangeCursorError;

impl fmt::Display for ChangeCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tx, seq, seen, at_seconds } = self;
        write!(f, "{tx}-{seq}-{seen}-{at_seconds}")
    }
}

impl FromStr for ChangeCursor {
    type Err = ChangeCursorError;

    fn from_str(text: &str) -> Result<Self, ChangeCursorError> {
        let mut parts = text.split('-');
        let mut next =
            || -> Option<i64> { parts.next()?.parse().ok().filter(|number: &i64| *number >= 0) };
        let cursor = (|| {
            let (tx, seq) = (next()?, next()?);
            Some(Self { tx, seq, seen: u32::try_from(next()?).ok()?, at_seconds: next()? })
        })();
        cursor.filter(|_| parts.next().is_none()).ok_or(ChangeCursorError)
    }
}

impl Serialize for ChangeCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_and_change_survive_a_round_trip() {
        let cursor = ChangeCursor { tx: 812, seq: 7, seen: 3, at_seconds: 1_700_000_000 };
        assert_eq!(cursor.to_string(), "812-7-3-1700000000");
        assert_eq!("812-7-3-1700000000".parse::<ChangeCursor>().unwrap(), cursor);
        for wrong in ["", "1", "1-2-3", "1-2-3-4-5", "a-2-3-4", "1--2-3-4", "1-2-99999999999-4"] {
            assert!(wrong.parse::<ChangeCursor>().is_err(), "{wrong}");
        }
        for kind in ChangeKind::ALL {
            let change = LoggedChange { kind, id: Uuid::max(), at: Timestamp::from_micros(-5) };
            let mut bytes = Vec::new();
            change.write(&mut bytes);
            assert_eq!(LoggedChange::read(bytes[..].try_into().unwrap()), Some(change));
            assert_eq!(kind.as_str().parse::<ChangeKind>().unwrap(), kind);
        }
        assert_eq!(LoggedChange::read(&[9; LoggedChange::BYTES]), None);
    }
}
