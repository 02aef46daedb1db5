//! Cursor pagination: stable under inserts, and as cheap at the end of a list as at its start.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::Timestamp;

/// A position in a list, newest first: the last row of the previous page.
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

/// Selects a page of a list.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    /// Maximum rows.
    pub limit: u32,
    /// Only rows after this position; `None` starts at the newest.
    pub after: Option<Cursor>,
}

/// One page of a list, newest first.
#[derive(Clone, Debug, Serialize)]
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
}

impl<T> Page<T> {
    /// A page of rows that were fetched with `limit + 1`: the extra row shows that more follow.
    pub fn from_rows(mut rows: Vec<T>, limit: u32, position: impl Fn(&T) -> Cursor) -> Self {
        let limit = limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = if more { rows.last().map(position) } else { None };
        Self { data: rows, next_cursor }
    }

    /// The page with every row mapped.
    pub fn map<U>(self, map: impl FnMut(T) -> U) -> Page<U> {
        Page { data: self.data.into_iter().map(map).collect(), next_cursor: self.next_cursor }
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
    fn only_a_full_page_has_a_next_cursor() {
        let at = |n: &u32| Cursor { at: Timestamp::from_micros(i64::from(*n)), id: Uuid::nil() };
        assert!(Page::from_rows(vec![2, 1], 2, at).next_cursor.is_none());
        let page = Page::from_rows(vec![3, 2, 1], 2, at);
        assert_eq!(page.data, [3, 2]);
        assert_eq!(page.next_cursor.unwrap().at.micros(), 2);
    }
}
