//! Cursor pagination: stable under inserts, and as cheap at the end of a list as at its start.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::Timestamp;

/// A position in a list: the last row of the previous page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The time by which the list is ordered.
    pub at: Timestamp,
    /// The row's id, which orders rows with the same time.
    pub id: Uuid,
}

/// The text is not a cursor.
#[derive(Debug, thiserror::Error)]
#[error("must be a next_cursor or prev_cursor of an earlier answer")]
pub struct CursorError;

/// The order of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ListOrder {
    /// From the newest row to the oldest.
    #[default]
    NewestFirst,
    /// From the oldest row to the newest.
    OldestFirst,
}

/// Which list a cursor belongs to: a digest of its path and filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListTag(pub u32);

/// A position as a list's cursor tells it.
pub trait ListPosition: Sized {
    /// Whether it is a label's, whose cursors had another form in earlier versions.
    const IS_LABEL: bool;

    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8>;

    /// The position with these bytes.
    ///
    /// # Errors
    /// When they are none of a position.
    fn from_bytes(bytes: &[u8]) -> Result<Self, CursorError>;
}

/// A cursor as callers get it: a position in one list, in one order, and the direction in which it is read on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListCursor<P = Cursor> {
    /// The position.
    pub position: P,
    /// The order of the list.
    pub order: ListOrder,
    /// Whether it leads to the page before.
    pub is_backward: bool,
    /// The list; `None` for a cursor of an earlier version, which did not tell.
    pub list: Option<ListTag>,
}

/// Selects a page of a list.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Maximum rows.
    pub limit: u32,
    /// Only rows after this position in the order of the list; `None` starts with its first row.
    pub after: Option<Cursor>,
    /// The order of the list.
    pub order: ListOrder,
}

/// One page of a list.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}Page")]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// The position of the next page; `None` at the end of the list.
    pub next_cursor: Option<Cursor>,
}

impl PageRequest {
    /// Rows per page by default.
    pub const LIMIT_DEFAULT: u32 = 50;
    /// Maximum rows per page.
    pub const LIMIT_MAX: u32 = 500;
    /// Bytes of payloads per page, unless the first row alone has more.
    pub const PAYLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

    /// The newest rows.
    pub const fn first(limit: u32) -> Self {
        Self { limit, after: None, order: ListOrder::NewestFirst }
    }
}

/// The end of an earlier version's cursor of a list whose oldest row comes first.
const OLDEST_FIRST: &str = "-a";
/// Bytes of a position.
const CURSOR_BYTES: usize = 24;
/// A list whose oldest row comes first, in the first byte of a list's cursor.
const IS_ASCENDING: u8 = 1;
/// A cursor that leads backwards, in the same byte.
const IS_BACKWARD: u8 = 2;
/// A position by a label, in the same byte, which in an earlier version's cursor of such a list begins a number that is
/// far below this.
const IS_LABEL: u8 = 4;

impl<T> Page<T> {
    /// A page of rows that were fetched with `limit + 1`: the extra row shows that more follow.
    pub fn from_rows(mut rows: Vec<T>, limit: u32, position: impl Fn(&T) -> Cursor) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = if more { rows.last().map(position) } else { None };
        Self { data: rows, next_cursor }
    }

    /// The page up to the row before which `bytes` of the rows sum up to more than `bytes_max`. At least one row
    /// stays, so that a list can be walked to its end.
    pub fn within(
        mut self,
        bytes_max: usize,
        bytes: impl Fn(&T) -> usize,
        position: impl Fn(&T) -> Cursor,
    ) -> Self {
        let sum = |sum: &mut usize, row| {
            *sum = sum.saturating_add(bytes(row));
            Some(*sum)
        };
        let fitting = self.data.iter().scan(0, sum).take_while(|sum| *sum <= bytes_max).count();
        let kept = fitting.max(1);
        if kept < self.data.len() {
            self.data.truncate(kept);
            self.next_cursor = self.data.last().map(position);
        }
        self
    }

    /// The page with every row mapped.
    pub fn map<U>(self, map: impl FnMut(T) -> U) -> Page<U> {
        Page { data: self.data.into_iter().map(map).collect(), next_cursor: self.next_cursor }
    }
}

impl ListOrder {
    /// The word in a query.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NewestFirst => "desc",
            Self::OldestFirst => "asc",
        }
    }

    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::NewestFirst => Self::OldestFirst,
            Self::OldestFirst => Self::NewestFirst,
        }
    }

    /// Whether a row at `one` comes before a row at `other`.
    pub fn is_before(self, one: Cursor, other: Cursor) -> bool {
        let (one, other) = ((one.at, one.id), (other.at, other.id));
        match self {
            Self::NewestFirst => one > other,
            Self::OldestFirst => one < other,
        }
    }
}

impl ListPosition for Cursor {
    const IS_LABEL: bool = false;

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CURSOR_BYTES);
        bytes.extend(self.at.micros().to_be_bytes());
        bytes.extend(self.id.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CursorError> {
        let (at, id) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        Ok(Self {
            at: Timestamp::from_micros(i64::from_be_bytes(*at)),
            id: Uuid::from_slice(id).map_err(|_| CursorError)?,
        })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(ListPosition::to_bytes(self)))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(&URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?)
    }
}

/// A byte of flags, the list, and the position. One that tells no list has the earlier version's form, so that cursors
/// which somebody has kept go on.
impl<P: ListPosition> fmt::Display for ListCursor<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_ascending = self.order == ListOrder::OldestFirst;
        let Some(ListTag(list)) = self.list else {
            f.write_str(&URL_SAFE_NO_PAD.encode(self.position.to_bytes()))?;
            return f.write_str(if is_ascending { OLDEST_FIRST } else { "" });
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let ascending = flag(is_ascending, IS_ASCENDING);
        let backward = flag(self.is_backward, IS_BACKWARD);
        let mut bytes = vec![ascending | backward | flag(P::IS_LABEL, IS_LABEL)];
        bytes.extend(list.to_be_bytes());
        bytes.extend(self.position.to_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl<P: ListPosition> FromStr for ListCursor<P> {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (position, order) = match text.strip_suffix(OLDEST_FIRST) {
            // 24 bytes of base64 are 32 characters.
            Some(position) if position.len() == 32 => (position, ListOrder::OldestFirst),
            _ => (text, ListOrder::NewestFirst),
        };
        let bytes = URL_SAFE_NO_PAD.decode(position).map_err(|_| CursorError)?;
        let (flags, rest) = bytes.split_first().ok_or(CursorError)?;
        let is_earlier =
            if P::IS_LABEL { flags & IS_LABEL == 0 } else { bytes.len() == CURSOR_BYTES };
        if is_earlier {
            let position = P::from_bytes(&bytes)?;
            return Ok(Self { position, order, is_backward: false, list: None });
        }
        let (list, position) = rest.split_first_chunk::<4>().ok_or(CursorError)?;
        let known = IS_ASCENDING | IS_BACKWARD | if P::IS_LABEL { IS_LABEL } else { 0 };
        if flags & !known != 0 || order == ListOrder::OldestFirst {
            return Err(CursorError);
        }
        let is_ascending = flags & IS_ASCENDING != 0;
        Ok(Self {
            position: P::from_bytes(position)?,
            order: if is_ascending { ListOrder::OldestFirst } else { ListOrder::NewestFirst },
            is_backward: flags & IS_BACKWARD != 0,
            list: Some(ListTag(u32::from_be_bytes(*list))),
        })
    }
}

impl<P: ListPosition> Serialize for ListCursor<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_survives_a_round_trip() {
        let cursor = Cursor { at: Timestamp::from_micros(7), id: Uuid::from_u128(9) };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        assert!("zzz".parse::<Cursor>().is_err());
    }

    #[test]
    fn cursor_of_a_list_tells_list_order_and_direction() {
        let position = Cursor { at: Timestamp::from_micros(-1), id: Uuid::max() };
        for order in [ListOrder::NewestFirst, ListOrder::OldestFirst] {
            for (is_backward, list) in
                [(false, None), (false, Some(ListTag(7))), (true, Some(ListTag(u32::MAX)))]
            {
                let ours = ListCursor { position, order, is_backward, list };
                let text = ours.to_string();
                assert_eq!(text.parse::<ListCursor>().unwrap(), ours);
                let is_earlier = list.is_none() && order == ListOrder::NewestFirst;
                assert_eq!(text.parse::<Cursor>().is_ok(), is_earlier);
            }
        }
        for text in ["-a", "", "AAAA", &URL_SAFE_NO_PAD.encode([4; 29])] {
            assert!(text.parse::<ListCursor>().is_err(), "{text}");
        }
        let older = Cursor { at: Timestamp::from_micros(-2), ..position };
        assert!(ListOrder::NewestFirst.is_before(position, older));
        assert!(ListOrder::OldestFirst.is_before(older, position));
    }

    #[test]
    fn only_a_full_page_has_a_next_cursor() {
        let at = |n: &u32| Cursor { at: Timestamp::from_micros(i64::from(*n)), id: Uuid::nil() };
        assert!(Page::from_rows(vec![2, 1], 2, at).next_cursor.is_none());
        let page = Page::from_rows(vec![3, 2, 1], 2, at);
        assert_eq!(page.data, [3, 2]);
        assert_eq!(page.next_cursor.unwrap().at.micros(), 2);
    }

    #[test]
    fn page_ends_early_at_its_bytes_but_has_a_row() {
        let at = |n: &usize| {
            let micros = i64::try_from(*n).unwrap();
            Cursor { at: Timestamp::from_micros(micros), id: Uuid::nil() }
        };
        let within = |bytes_max| {
            let page = Page { data: vec![5, 4, 3], next_cursor: None };
            let page = page.within(bytes_max, |bytes| *bytes, at);
            (page.data.len(), page.next_cursor.map(|cursor| cursor.at.micros()))
        };
        assert_eq!(within(12), (3, None));
        assert_eq!(within(11), (2, Some(4)));
        assert_eq!(within(9), (2, Some(4)));
        assert_eq!(within(1), (1, Some(5)));
        let empty = Page { data: Vec::new(), next_cursor: None };
        assert!(empty.within(1, |bytes| *bytes, at).next_cursor.is_none());
    }
}
