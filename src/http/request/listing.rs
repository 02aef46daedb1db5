//! The list that a request reads a page of: its cursors belong to it alone.
//!
//! A cursor is a position by time and id, which would fit into any list. Used in another list, or with other filters, it
//! would skip rows that nobody has seen; so it carries a digest of the path and the filters.

use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::{
    Cursor, LabelCursor, LabelPage, ListCursor, ListOrder, ListTag, Page, PageRequest,
};

/// Parameters that select no rows.
const NOT_FILTERS: [&str; 4] = ["limit", "cursor", "order", "include"];
/// An export is read from the list before this end of its path.
const EXPORT: &str = "/export";

/// A list as a request asks for it.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct RequestedList<P = Cursor> {
    pub(super) tag: ListTag,
    pub(super) order: ListOrder,
    pub(super) is_backward: bool,
    pub(super) after: Option<P>,
}

/// A list that is not in the order of time, as a request asks for it.
pub(in crate::http) type LabelListing = RequestedList<LabelCursor>;

/// One page of a list, which is read in both directions.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}Page")]
pub(in crate::http) struct ListPage<T> {
    /// The rows.
    pub(in crate::http) data: Vec<T>,
    /// The position of the next page; `null` at the end of the list.
    next_cursor: Option<ListCursor>,
    /// The position of the page before; `null` on the first page.
    prev_cursor: Option<ListCursor>,
}

/// One page of a list that is not in the order of time, which is read forwards.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "{T}Page")]
pub(in crate::http) struct ForwardPage<T> {
    /// The rows.
    data: Vec<T>,
    /// The position of the next page; `null` at the end of the list.
    next_cursor: Option<ListCursor<LabelCursor>>,
}

/// A row with a place in its list.
pub(in crate::http) trait Positioned {
    /// Its position.
    fn position(&self) -> Cursor;
}

/// The digest of a list: of its path, and of its filters in any order.
pub(super) fn tag(path: &str, parameters: &[(String, String)]) -> ListTag {
    let is_filter = |parameter: &&(String, String)| !NOT_FILTERS.contains(&parameter.0.as_str());
    let mut filters: Vec<_> = parameters.iter().filter(is_filter).collect();
    filters.sort_unstable();
    let mut hash = Sha256::new();
    hash.update(path.strip_suffix(EXPORT).unwrap_or(path));
    for text in filters.into_iter().flat_map(|(name, value)| [name, value]) {
        // Texts cannot run into one another: each begins with its length.
        hash.update(text.len().to_be_bytes());
        hash.update(text);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let [first, second, third, fourth, ..] = digest;
    ListTag(u32::from_be_bytes([first, second, third, fourth]))
}

impl<P> RequestedList<P> {
    /// A position from which the list is read on.
    pub(in crate::http) const fn cursor(&self, position: P, is_backward: bool) -> ListCursor<P> {
        ListCursor { position, order: self.order, is_backward, list: Some(self.tag) }
    }
}

impl LabelListing {
    /// The position after which it is read.
    pub(in crate::http) const fn after(&self) -> Option<&LabelCursor> {
        self.after.as_ref()
    }

    /// The page that was read.
    pub(in crate::http) fn forward_page<T>(&self, page: LabelPage<T>) -> ForwardPage<T> {
        let next_cursor = page.next_cursor.map(|position| self.cursor(position, false));
        ForwardPage { data: page.data, next_cursor }
    }
}

impl RequestedList {
    /// The order in which the rows are read: backwards for a page before.
    pub(in crate::http) const fn reading_order(self) -> ListOrder {
        if self.is_backward { self.order.reversed() } else { self.order }
    }

    /// The page that is to be read.
    pub(super) const fn request(self, limit: u32) -> PageRequest {
        PageRequest { limit, after: self.after, order: self.reading_order() }
    }

    /// The position next to the one after which it is read, in the direction of reading: the row there is part of what
    /// is read the other way.
    fn behind_after(self) -> Option<Cursor> {
        let order = self.reading_order();
        self.after.map(|Cursor { at, id }| {
            let id = match order {
                ListOrder::NewestFirst => id.as_u128().saturating_sub(1),
                ListOrder::OldestFirst => id.as_u128().saturating_add(1),
            };
            Cursor { at, id: Uuid::from_u128(id) }
        })
    }

    /// The page that was read in [`Self::reading_order`], in the order of the list. One without rows may have others on
    /// both sides, since a page may end short.
    pub(in crate::http) fn page<T: Positioned>(self, page: Page<T>) -> ListPage<T> {
        let Page { mut data, next_cursor: more } = page;
        let (next, prev) = if self.is_backward {
            data.reverse();
            (data.last().map(T::position).or(self.behind_after()), more)
        } else {
            let first = |after| data.first().map_or(after, T::position);
            (more, self.behind_after().map(first))
        };
        ListPage {
            data,
            next_cursor: next.map(|cursor| self.cursor(cursor, false)),
            prev_cursor: prev.map(|cursor| self.cursor(cursor, true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;

    use super::*;
    use crate::domain::Timestamp;

    #[derive(Clone, Copy, PartialEq, Debug)]
    struct Row(i64);

    impl Positioned for Row {
        fn position(&self) -> Cursor {
            Cursor { at: Timestamp::from_micros(self.0), id: Uuid::nil() }
        }
    }

    fn tag_of(uri: &str) -> ListTag {
        let uri: Uri = uri.parse().unwrap();
        let parameters = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        tag(uri.path(), &parameters.into_owned().collect::<Vec<_>>())
    }

    #[test]
    fn tag_tells_path_and_filters() {
        let list = tag_of("/api/events?type=a&account_id=b");
        for same in [
            "/api/events?account_id=b&limit=3&type=a&cursor=x&order=asc",
            "/api/events/export?type=a&account_id=b&include=payload",
        ] {
            assert_eq!(tag_of(same), list, "{same}");
        }
        for other in [
            "/api/events?type=a",
            "/api/events?type=ab&account_id=",
            "/api/deliveries?type=a&account_id=b",
        ] {
            assert_ne!(tag_of(other), list, "{other}");
        }
    }

    #[test]
    fn pages_lead_in_both_directions() {
        let at = |row: i64| Row(row).position();
        let listing = |is_backward, after: Option<i64>| RequestedList {
            tag: ListTag(1),
            order: ListOrder::NewestFirst,
            is_backward,
            after: after.map(at),
        };
        let read = |listing: RequestedList, rows: &[i64], more: Option<i64>| {
            let data = rows.iter().copied().map(Row).collect();
            let page = listing.page(Page { data, next_cursor: more.map(at) });
            let micros =
                |cursor: Option<ListCursor>| cursor.map(|cursor| cursor.position.at.micros());
            let rows: Vec<i64> = page.data.iter().map(|row| row.0).collect();
            (rows, micros(page.prev_cursor), micros(page.next_cursor))
        };
        assert_eq!(read(listing(false, None), &[9, 8], Some(8)), (vec![9, 8], None, Some(8)));
        assert_eq!(read(listing(false, Some(8)), &[7, 6], None), (vec![7, 6], Some(7), None));
        // A page without rows may be anywhere in a list.
        assert_eq!(read(listing(false, Some(6)), &[], None), (vec![], Some(6), None));
        assert_eq!(read(listing(false, Some(6)), &[], Some(3)), (vec![], Some(6), Some(3)));
        assert_eq!(read(listing(true, Some(3)), &[], Some(6)), (vec![], Some(6), Some(3)));
        assert_eq!(read(listing(false, None), &[], Some(6)), (vec![], None, Some(6)));
        assert_eq!(listing(true, Some(7)).reading_order(), ListOrder::OldestFirst);
        assert_eq!(read(listing(true, Some(7)), &[8, 9], Some(9)), (vec![9, 8], Some(9), Some(8)));
        assert_eq!(read(listing(true, Some(9)), &[], None), (vec![], None, Some(9)));
    }

    #[test]
    fn page_without_rows_leads_back_to_the_row_before_it() {
        let row = Cursor { at: Timestamp::from_micros(6), id: Uuid::from_u128(7) };
        for order in [ListOrder::NewestFirst, ListOrder::OldestFirst] {
            for is_backward in [false, true] {
                let listing =
                    RequestedList { tag: ListTag(1), order, is_backward, after: Some(row) };
                let page = listing.page(Page::<Row> { data: Vec::new(), next_cursor: None });
                let back = if is_backward { page.next_cursor } else { page.prev_cursor };
                let back = back.unwrap();
                let order = if back.is_backward { order.reversed() } else { order };
                assert!(order.is_before(back.position, row), "{order:?} {is_backward}");
            }
        }
    }
}
