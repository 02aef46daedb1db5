//! Pages of lists that are not in the order of time and id: by name, by count, by activity.

use super::{CursorError, ListPosition};

/// A position in such a list: the last row of the previous page.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LabelCursor {
    /// The number by which the list is ordered; 0 where it is ordered by labels alone.
    pub number: i64,
    /// The row's label, which orders rows with the same number.
    pub label: String,
}

/// One page of such a list.
#[derive(Clone, PartialEq, Eq, Debug)]
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

impl ListPosition for LabelCursor {
    const IS_LABEL: bool = true;

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.number.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.label.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, CursorError> {
        let (number, label) = bytes.split_first_chunk::<8>().ok_or(CursorError)?;
        let label = String::from_utf8(label.to_vec()).map_err(|_| CursorError)?;
        if label.len() > Self::LABEL_BYTES_MAX || label.chars().any(char::is_control) {
            return Err(CursorError);
        }
        Ok(Self { number: i64::from_be_bytes(*number), label })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{ListCursor, ListOrder, ListTag};

    #[test]
    fn cursor_of_a_list_tells_it() {
        for position in [LabelCursor::new(-7, "käse"), LabelCursor::new(1 << 40, "")] {
            for list in [Some(ListTag(7)), None] {
                let (position, order) = (position.clone(), ListOrder::NewestFirst);
                let cursor = ListCursor { position, order, is_backward: false, list };
                // A negative number, which no list has, is told from the flags of its list's cursor only there.
                if cursor.position.number >= 0 || list.is_some() {
                    assert_eq!(
                        cursor.to_string().parse::<ListCursor<LabelCursor>>().unwrap(),
                        cursor
                    );
                }
                let as_time = cursor.to_string().parse::<ListCursor>();
                assert!(as_time.is_err(), "{cursor:?}");
            }
        }
        for bytes in [&[0; 8][..], "x".repeat(264).as_bytes(), b"\0\0\0\0\0\0\0\x01\0", b"1234567"]
        {
            let is_position = LabelCursor::from_bytes(bytes).is_ok();
            assert_eq!(is_position, bytes == [0; 8], "{bytes:?}");
        }
    }

    #[test]
    fn only_a_full_page_has_a_next_cursor() {
        let position = |n: &i64| LabelCursor::new(*n, "");
        assert_eq!(LabelPage::from_rows(vec![2, 1], 2, position).next_cursor, None);
        let page = LabelPage::from_rows(vec![3, 2, 1], 2, position);
        assert_eq!((page.data, page.next_cursor), (vec![3, 2], Some(LabelCursor::new(2, ""))));
    }
}
