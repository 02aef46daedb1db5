//! `?wait=`: the outcome of an attempt, in the answer to the request that asked for it.
//!
//! A request that waits holds the permit of a stream, which bounds how many wait per organisation, and nothing of the
//! store: it looks once the recorder has woken it, and every few seconds, since another server may make the attempt.
//! Each look is a read like any other.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::byte_budget::Owner;
use super::charges;
use super::error::ApiError;
use super::extract::Tenant;
use super::read_limit::ReadPermit;
use super::request::{Number, query_fields};
use super::server::RequestDeadline;
use super::state::AppState;
use super::stream_limits::StreamPermit;
use crate::api::deliveries;
use crate::api::views::DeliveryDetail;
use crate::domain::DeliveryId;

/// Seconds that a request waits at most.
const WAIT_SECONDS_MAX: u32 = 30;
/// Time between two looks without a wake.
const POLL: Duration = Duration::from_secs(2);

query_fields! {
    /// How long the outcome is waited for.
    pub(in crate::http) struct WaitQuery {
        /// Seconds to wait for the outcome of the attempt. If it ends in time, the answer is 200 with the delivery. 0 does
        /// not wait, as if it were left out.
        wait: Number<0, WAIT_SECONDS_MAX>,
    }
}

/// The right to wait, taken before anything is done.
#[derive(Debug)]
pub(super) struct OutcomeWait {
    wait: Duration,
    deadline: RequestDeadline,
    _permit: StreamPermit,
}

impl OutcomeWait {
    /// The right to wait for as long as the query says; `None` if it does not.
    ///
    /// # Errors
    /// When too many requests wait.
    pub(super) fn begin(
        app: &AppState,
        tenant: &Tenant,
        deadline: RequestDeadline,
        WaitQuery { wait }: &WaitQuery,
    ) -> Result<Option<Self>, ApiError> {
        let seconds = wait.map_or(0, |seconds| seconds.0);
        if seconds == 0 {
            return Ok(None);
        }
        let permit = charges::open_stream(app, Owner::Org(tenant.org_id))?;
        let wait = Duration::from_secs(seconds.into());
        Ok(Some(Self { wait, deadline, _permit: permit }))
    }

    /// Waits until a delivery has more than `before` attempts, or is finished. `None` when the time is over, or the
    /// server stops.
    pub(super) async fn outcome(
        self,
        app: &AppState,
        tenant: &Tenant,
        id: DeliveryId,
        before: u32,
    ) -> Option<DeliveryDetail> {
        let server = app.subsystems().server.as_ref()?;
        let waiter = server.delivery.outcomes().wait_for(id);
        self.deadline.lift();
        let mut is_over = pin!(sleep(self.wait));
        loop {
            // The attempt may have ended before it was waited for.
            match look(app, tenant, id, before).await {
                Ok(None) => {}
                Ok(found) => return found,
                // What was asked for is done; its outcome may be readable a little later.
                Err(error) => tracing::debug!(delivery = %id, ?error, "cannot look for an outcome"),
            }
            tokio::select! {
                biased;
                () = app.shutdown.requested() => return None,
                () = &mut is_over => return None,
                () = waiter.woken() => {}
                () = sleep(POLL) => {}
            }
        }
    }
}

async fn look(
    app: &AppState,
    tenant: &Tenant,
    id: DeliveryId,
    before: u32,
) -> Result<Option<DeliveryDetail>, ApiError> {
    let _reading = ReadPermit::take(app, &tenant.principal).await?;
    Ok(deliveries::outcome(app.reads(), tenant.org_id, id, before).await?)
}
