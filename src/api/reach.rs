//! What a caller reaches: a whole organisation, or what belongs to one account of it.
//!
//! An account has the events that name it, the endpoints that receive its events alone, and what was sent to those. To
//! whom is limited to it, everything else of the organisation is as if it did not exist.
//!
//! **Invariant:** a use case that takes an [`OrgId`] is for callers that reach the whole organisation. One that takes a
//! [`CallerReach`] limits what it reads and changes by it.

use std::cmp::Ordering;
use std::sync::Arc;

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::domain::{Cursor, Endpoint, EndpointId, ListOrder, OrgId, Page, PageRequest};

/// What a caller reaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallerReach {
    org: OrgId,
    /// The only account in reach; `None` for the whole organisation.
    account: Option<Arc<str>>,
}

impl From<OrgId> for CallerReach {
    /// The whole organisation.
    fn from(org: OrgId) -> Self {
        Self { org, account: None }
    }
}

impl CallerReach {
    /// What belongs to one account, or without one the whole organisation.
    pub const fn new(org: OrgId, account: Option<Arc<str>>) -> Self {
        Self { org, account }
    }

    /// The organisation.
    pub const fn org(&self) -> OrgId {
        self.org
    }

    /// The only account in reach.
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Whether what belongs to this account, or to none, is in reach.
    pub fn includes(&self, account: Option<&str>) -> bool {
        self.account.is_none() || self.account.as_deref() == account
    }

    /// Whether an endpoint is in reach.
    pub(super) fn has(&self, endpoint: &Endpoint) -> bool {
        endpoint.org_id == self.org && self.includes(endpoint.account_id.as_deref())
    }

    /// The endpoints in reach, or `only` if it is one of them; `None` when they are all of the organisation's.
    pub(super) async fn endpoints(
        &self,
        subsystems: &Subsystems,
        only: Option<EndpointId>,
    ) -> Result<Option<Vec<EndpointId>>, Refusal> {
        let Some(account) = self.account() else { return Ok(None) };
        let mut ids = subsystems.store.endpoint_ids_of_account(self.org, account).await?;
        ids.retain(|id| only.is_none_or(|only| only == *id));
        Ok(Some(ids))
    }

    /// Checks that what was sent to an endpoint is in reach; if it is not, `missing` is what does not exist.
    pub(super) async fn require_endpoint(
        &self,
        subsystems: &Subsystems,
        id: Option<EndpointId>,
        missing: Missing,
    ) -> Result<(), Refusal> {
        if self.account.is_none() {
            return Ok(());
        }
        let endpoint = match id {
            Some(id) => subsystems.store.endpoint(self.org, id).await?,
            None => None,
        };
        let is_there = endpoint.is_some_and(|endpoint| self.has(&endpoint));
        if is_there { Ok(()) } else { Err(Refusal::NotFound(missing)) }
    }
}

/// One page of the lists of several endpoints, each of which was read from the same position on.
///
/// A list may be shorter than its page and go on all the same. Rows behind the place where the first list stops wait for
/// the next page, since that list may have some before them.
pub(super) fn merged<T>(
    lists: Vec<Page<T>>,
    page: PageRequest,
    position: impl Fn(&T) -> Cursor,
) -> Page<T> {
    let compare = |one: &Cursor, other: &Cursor| {
        let ordering = (one.at, one.id).cmp(&(other.at, other.id));
        if page.order == ListOrder::OldestFirst { ordering } else { ordering.reverse() }
    };
    let stop = lists.iter().filter_map(|list| list.next_cursor).min_by(|a, b| compare(a, b));
    let mut rows: Vec<T> = lists.into_iter().flat_map(|list| list.data).collect();
    rows.retain(|row| stop.is_none_or(|stop| compare(&position(row), &stop) != Ordering::Greater));
    rows.sort_by(|one, other| compare(&position(one), &position(other)));
    let next_cursor = if rows.len() > page.limit as usize {
        rows.truncate(page.limit as usize);
        rows.last().map(&position)
    } else {
        stop
    };
    Page { data: rows, next_cursor }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::Timestamp;

    fn at(micros: i64) -> Cursor {
        Cursor { at: Timestamp::from_micros(micros), id: Uuid::nil() }
    }

    fn list(rows: &[i64], next: Option<i64>) -> Page<i64> {
        Page { data: rows.to_vec(), next_cursor: next.map(at) }
    }

    fn merge(lists: Vec<Page<i64>>, limit: u32) -> (Vec<i64>, Option<Cursor>) {
        let page = merged(lists, PageRequest::first(limit), |row| at(*row));
        (page.data, page.next_cursor)
    }

    #[test]
    fn lists_are_merged_in_their_order_and_none_skips_rows_of_another() {
        let lists = || vec![list(&[9, 5, 1], None), list(&[8, 6], Some(6)), list(&[7], None)];
        // Behind 6 the second list may have rows before those of the others.
        assert_eq!(merge(lists(), 10), (vec![9, 8, 7, 6], Some(at(6))));
        assert_eq!(merge(lists(), 2), (vec![9, 8], Some(at(8))));
        assert_eq!(merge(vec![list(&[2], None), list(&[3], None)], 2), (vec![3, 2], None));
        assert_eq!(merge(vec![list(&[], Some(4)), list(&[5, 3], None)], 9), (vec![5], Some(at(4))));
        assert_eq!(merge(Vec::new(), 9), (Vec::new(), None));
        let oldest = merged(
            vec![list(&[1, 4], None), list(&[2], Some(2))],
            PageRequest { order: ListOrder::OldestFirst, ..PageRequest::first(9) },
            |row| at(*row),
        );
        assert_eq!((oldest.data, oldest.next_cursor), (vec![1, 2], Some(at(2))));
    }

    #[test]
    fn an_account_reaches_what_names_it_alone() {
        let org = OrgId::mint(Timestamp::from_micros(1));
        let (whole, acme) = (CallerReach::from(org), CallerReach::new(org, Some("acme".into())));
        assert!(whole.includes(None) && whole.includes(Some("acme")));
        assert!(
            acme.includes(Some("acme")) && !acme.includes(None) && !acme.includes(Some("ACME"))
        );
    }
}
