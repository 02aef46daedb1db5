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
#[error("must be a next_cursor of an earlier answer")]
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

/// A cursor of a list that has two orders. It belongs to one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrderedCursor {
    /// The position.
    pub cursor: Cursor,
    /// The order in which it is a position.
    pub order: ListOrder,
}

/// One page of a list that has two orders.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}Page")]
pub struct OrderedPage<T> {
    /// The rows.
    pub data: Vec<T>,
    /// The position of the next page; `None` at the end of the list.
    pub next_cursor: Option<OrderedCursor>,
}

/// Selects a page of a list.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Maximum rows.
    pub limit: u32,
    /// Only rows after this position in the order of the list; `None` starts with its first row.
    pub after: Option<Cursor>,
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
}

/// The end of a cursor of a list whose oldest row comes first.
const OLDEST_FIRST: &str = "-a";

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

    /// The page, whose cursor belongs to this order.
    pub fn page<T>(self, page: Page<T>) -> OrderedPage<T> {
        let next_cursor = page.next_cursor.map(|cursor| OrderedCursor { cursor, order: self });
        OrderedPage { data: page.data, next_cursor }
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

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.at.micros().to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (at, id) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        Ok(Self {
            at: Timestamp::from_micros(i64::from_be_bytes(*at)),
            id: Uuid::from_slice(id).map_err(|_| CursorError)?,
        })
    }
}

/// A cursor of the reverse order is a byte longer, so that neither is taken for the other.
impl fmt::Display for OrderedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cursor.fmt(f)?;
        match self.order {
            ListOrder::NewestFirst => Ok(()),
            ListOrder::OldestFirst => f.write_str(OLDEST_FIRST),
        }
    }
}

impl FromStr for OrderedCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, order) = match text.strip_suffix(OLDEST_FIRST) {
            // 24 bytes of base64 are 32 characters.
            Some(cursor) if text.len() > 32 => (cursor, ListOrder::OldestFirst),
            _ => (text, ListOrder::NewestFirst),
        };
        Ok(Self { cursor: text.parse()?, order })
    }
}

impl Serialize for OrderedCursor {
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
    fn cursor_belongs_to_the_order_of_its_list() {
        let cursor = Cursor { at: Timestamp::from_micros(-1), id: Uuid::max() };
        for order in [ListOrder::NewestFirst, ListOrder::OldestFirst] {
            let ordered = OrderedCursor { cursor, order };
            let text = ordered.to_string();
            assert_eq!(text.parse::<OrderedCursor>().unwrap(), ordered);
            assert_eq!(text.parse::<Cursor>().is_ok(), order == ListOrder::NewestFirst);
        }
        assert!("-a".parse::<OrderedCursor>().is_err());
        let older = Cursor { at: Timestamp::from_micros(-2), ..cursor };
        assert!(ListOrder::NewestFirst.is_before(cursor, older));
        assert!(ListOrder::OldestFirst.is_before(older, cursor));
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
