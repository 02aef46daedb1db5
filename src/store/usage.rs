//! Usage counters, written now and then rather than with every request.

use super::{Store, StoreError, on_engine};
use crate::domain::{ApiKeyId, Month, OrgId, Timestamp};

/// How many things an organisation has that are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holdings {
    /// Endpoints, disabled ones among them.
    pub endpoints: u64,
    /// Keys that are good, those in their grace among them.
    pub keys: u64,
    /// Keys that were rotated and are good still.
    pub keys_in_grace: u64,
}

impl Store {
    /// Events that an organisation had accepted in a month, as far as they were added here.
    pub async fn month_events(&self, org: OrgId, month: Month) -> Result<u64, StoreError> {
        on_engine!(self, month_events(org, month))
    }

    /// Adds what organisations had accepted in a month, and returns what that makes for each. Nothing
    /// is added to those that are being deleted.
    pub async fn add_month_events_across_orgs(
        &self,
        month: Month,
        events: &[(OrgId, u64)],
    ) -> Result<Vec<(OrgId, u64)>, StoreError> {
        on_engine!(self, add_month_events_across_orgs(month, events))
    }

    /// Writes `at` as the time that keys were last used.
    pub async fn touch_keys_across_orgs(
        &self,
        keys: &[ApiKeyId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        on_engine!(self, touch_keys_across_orgs(keys, at))
    }

    /// How many endpoints and good keys an organisation has.
    pub async fn holdings(&self, org: OrgId, now: Timestamp) -> Result<Holdings, StoreError> {
        on_engine!(self, holdings(org, now))
    }
}
