//! Erasures, performed in the background, step by step.
//!
//! # Operation
//! An erasure is a row with its progress, like a replay, and its steps are the store's. Only what is in dead letters of
//! the store's refusals is looked at here: it is in the journal's form, and tells whose it is when it is decoded.
//! After each step the task pauses for as long as the step took, so it uses at most half of the store's time.

use bytes::Bytes;
use uuid::Uuid;

use super::record;
use super::stepping::{self, Steps};
use crate::domain::{Erasure, ErasureSubject};
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::{ErasureStep, QuarantinedRecord, Store, StoreError};
use crate::telemetry::OrgLines;

/// Erasures that have ended.
static ENDED_ERASURES: OrgLines = OrgLines::new();

/// Performs erasures.
pub struct Eraser {
    /// The store with the erasures.
    pub store: Store,
    /// The current time.
    pub clock: Clock,
}

impl Steps for Eraser {
    const WHAT: &'static str = "erasures";

    async fn step(&self) -> Result<bool, StoreError> {
        self.run_once().await
    }
}

impl Eraser {
    /// Works until the soft stop.
    pub async fn run(self, shutdown: Shutdown) {
        stepping::work(&self, &Wake::new(), shutdown).await;
    }

    /// Performs one step of the next erasure. `false` when there is none.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn run_once(&self) -> Result<bool, StoreError> {
        let now = self.clock.now();
        match self.store.system().erase_step(now).await? {
            None => return Ok(false),
            Some(ErasureStep::Continues) => {}
            Some(ErasureStep::Ended(erasure)) => {
                let Erasure { id, org_id, events, deliveries, dead_letters, .. } = erasure;
                if let Some(unlogged) = ENDED_ERASURES.due(org_id) {
                    tracing::info!(
                        org = %org_id, erasure = %id, events, deliveries, dead_letters, unlogged,
                        "erasure finished"
                    );
                }
            }
            Some(ErasureStep::Records(erasure, records)) => {
                let ids = records.iter().filter(|record| is_meant(&erasure, record));
                let ids: Vec<Uuid> = ids.map(|record| record.position.id).collect();
                if let Some(last) = records.last() {
                    let system = self.store.system();
                    system.erase_records(&erasure, ids, last.position, now).await?;
                }
            }
        }
        Ok(true)
    }
}

/// Whether the event in a record is to be erased. One that cannot be decoded is: nobody can say that it is not.
fn is_meant(erasure: &Erasure, found: &QuarantinedRecord) -> bool {
    let ErasureSubject::Account(account) = &erasure.filter else { return false };
    let Ok(events) = record::decode(&Bytes::copy_from_slice(&found.record)) else { return true };
    let is_theirs = |account_id: &Option<String>| account_id.as_deref() == Some(account);
    events
        .iter()
        .any(|event| is_theirs(&event.account_id) && event.received_at <= erasure.accepted_until)
}
