//! Pages of lists that are not in the order of time and id: by name, by count, by activity.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::CursorError;

/// A position in such a list: the last row of the previous page.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LabelCursor {
    /// The number by which the list is ordered; 0 where it is ordered by labels alone.
    pub number: i64,
    /// The row's label, which orders rows with the same number.
    pub label: String,
}

/// One page of such a list.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}Page")]
pub struct LabelPage<T> {
    /// The rows.
    pub data: Vec<T>,
    /// The position of the next page; `None` at the end of the list.
    pub next_cursor: Option<LabelCursor>,
}

impl LabelCursor {
    /// Bytes of a label at most.
    const LABEL_BYTES_MAX: usize = 255;

    /// The position of a row.
    pub fn new(number: i64, label: impl Into<String>) -> Self {
        Self { number, label: label.into() }
    }
}

impl<T> LabelPage<T> {
    /// A page of rows that were fetched with `limit + 1`: the extra row shows that more follow.
    pub fn from_rows(mut rows: Vec<T>, limit: u32, position: impl Fn(&T) -> LabelCursor) -> Self {
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let next_cursor = if more { rows.last().map(position) } else { None };
        Self { data: rows, next_cursor }
    }
}

impl fmt::Display for LabelCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.number.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.label.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for LabelCursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError)?;
        let (number, label) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        let label = String::from_utf8(label.to_vec()).map_err(|_| CursorError)?;
        if label.len() > Self::LABEL_BYTES_MAX || label.chars().any(char::is_control) {
            return Err(CursorError);
        }
        Ok(Self { number: i64::from_be_bytes(*number), label })
    }
}

impl Serialize for LabelCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_survives_a_round_trip() {
        for cursor in [LabelCursor::new(-7, "käse"), LabelCursor::new(i64::MAX, "")] {
            assert_eq!(cursor.to_string().parse::<LabelCursor>().unwrap(), cursor);
        }
        for bad in ["", "zzz", "!", &LabelCursor::new(1, "\0").to_string()] {
            assert!(bad.parse::<LabelCursor>().is_err(), "{bad}");
        }
        let long = LabelCursor::new(1, "x".repeat(256)).to_string();
        assert!(long.parse::<LabelCursor>().is_err());
    }

    #[test]
    fn only_a_full_page_has_a_next_cursor() {
        let position = |n: &i64| LabelCursor::new(*n, "");
        assert_eq!(LabelPage::from_rows(vec![2, 1], 2, position).next_cursor, None);
        let page = LabelPage::from_rows(vec![3, 2, 1], 2, position);
        assert_eq!((page.data, page.next_cursor), (vec![3, 2], Some(LabelCursor::new(2, ""))));
    }
}
