//! Duplicates of a single event: which id it is known by, and whether the store is asked before its `202`.
//!
//! By default it is not: the answer waits for the journal alone, and duplicates are dropped when events are stored. Then
//! one in the journal is found, too. `?on_duplicate` asks the store first, which knows what is stored.

use axum::extract::Request;

use crate::domain::{Event, EventId, IdempotencyKey, NewEvent};
use crate::http::error::ApiError;
use crate::http::extract::Tenant;
use crate::http::idempotency;
use crate::http::read_limit::ReadPermit;
use crate::http::request::OnDuplicate;
use crate::http::request::query::Query;
use crate::http::state::AppState;

/// What a request says of duplicates.
#[derive(Debug)]
pub(super) struct Deduplication {
    /// The dedup id of an event without one of its own.
    key: Option<IdempotencyKey>,
    on_duplicate: Option<OnDuplicate>,
}

/// What the store has of an event's dedup id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Duplicate {
    /// Nothing.
    None,
    /// The same event.
    Same,
    /// Another one.
    Differs,
}

impl Deduplication {
    /// Reads the header `Idempotency-Key` and the parameter `on_duplicate`, the only one. `header_for` names the header
    /// that another parameter may mean.
    ///
    /// # Errors
    /// When one of them is malformed, or there is another parameter.
    pub(super) fn asked(
        request: &Request,
        header_for: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<Self, ApiError> {
        let key = idempotency::key(request.headers())?;
        if request.uri().query().is_none() {
            return Ok(Self { key, on_duplicate: None });
        }
        let mut query = Query::of(request.uri());
        let on_duplicate = query.take("on_duplicate");
        query.finish().map_err(|refusal| {
            let ApiError::Invalid(mut violations) = refusal else { return refusal };
            for violation in violations.iter_mut().filter(|violation| violation.code == "unknown") {
                if let Some(header) = header_for(&violation.field) {
                    violation.message = format!("{}; send the header {header}", violation.message);
                }
            }
            ApiError::Invalid(violations)
        })?;
        Ok(Self { key, on_duplicate })
    }

    /// Gives an event without a dedup id the key as its own.
    pub(super) fn name(&mut self, new_event: &mut NewEvent<'_>) {
        if new_event.dedup_id.is_none() {
            new_event.dedup_id = self.key.take().map(|key| key.into_text().into());
        }
    }

    /// What the store has of an event's dedup id, and the id of the event; `None` if that was not asked for, or the event
    /// has no dedup id.
    ///
    /// # Errors
    /// When the store has another event and that is to be rejected, or does not answer.
    pub(super) async fn find(
        &self,
        app: &AppState,
        tenant: &Tenant,
        new_event: &NewEvent<'_>,
    ) -> Result<Option<(EventId, Duplicate)>, ApiError> {
        let (Some(on_duplicate), Some(dedup_id)) = (self.on_duplicate, &new_event.dedup_id) else {
            return Ok(None);
        };
        let _reading = ReadPermit::take(app, &tenant.principal).await?;
        let (id, now) =
            (EventId::from_dedup_id(tenant.org_id, dedup_id), app.subsystems().clock.now());
        let stored = app.reads().store.event_within_window(tenant.org_id, id, now).await?;
        let found = match stored {
            None => Duplicate::None,
            Some(stored) if is_same(&stored, new_event) => Duplicate::Same,
            Some(_) if on_duplicate == OnDuplicate::Reject => {
                return Err(ApiError::DedupConflict(id));
            }
            Some(_) => Duplicate::Differs,
        };
        Ok(Some((id, found)))
    }
}

/// Whether a posted event says what the stored one does, payloads byte for byte.
fn is_same(stored: &Event, new_event: &NewEvent<'_>) -> bool {
    let NewEvent { event_type, payload, dedup_id: _, account_id, user_id, occurred_at } = new_event;
    stored.event_type.as_str() == event_type
        && stored.payload[..] == payload[..]
        && stored.account_id.as_deref() == account_id.as_deref()
        && stored.user_id.as_deref() == user_id.as_deref()
        && stored.occurred_at == *occurred_at
}
