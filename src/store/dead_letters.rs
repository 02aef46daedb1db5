//! Dead letters.

use super::{Store, StoreError, on_engine};
use crate::domain::{
    Actor, DeadLetter, DeadLetterFilter, DeadLetterId, OrgId, Page, PageRequest, Timestamp,
};

/// Why a dead letter is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LetterDeletion {
    /// Its owner puts it aside.
    Removed,
    /// The event that had been refused is stored now.
    Stored,
}

impl Store {
    /// The organisation's dead letters that pass the filter.
    pub async fn dead_letters(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>, StoreError> {
        on_engine!(self, dead_letters(org, filter, page))
    }

    /// One dead letter.
    pub async fn dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetter>, StoreError> {
        on_engine!(self, dead_letter(org, id))
    }

    /// The record of an event that the store refused, as [`Self::quarantine_event`] was given it.
    pub async fn quarantined_record(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        on_engine!(self, quarantined_record(org, id))
    }

    /// Deletes a dead letter; its delivery stays as it is. `false` when there is none.
    pub async fn delete_dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
        why: LetterDeletion,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        on_engine!(self, delete_dead_letter(org, id, why, by, now))
    }
}
