//! What the server that answers logs.

use schemars::JsonSchema;
use serde::Serialize;

use crate::http::extract::{Caller, OperatorRead, OperatorWrite, Scoped};
use crate::http::request::{Body, NoQuery, json_fields};
use crate::http::respond::Json;
use crate::telemetry::{LogFilter, log_filter, set_log_filter};

json_fields! {
    /// A change of what is logged.
    pub(in crate::http) struct LogPatch {
        /// Which lines are logged: a level, or levels per module.
        required filter: LogFilter,
    }
}

/// What the server that answers logs.
#[derive(Debug, JsonSchema, Serialize)]
#[schemars(rename = "LogSettings")]
pub(in crate::http) struct LogView {
    /// Which lines it logs; `null` if it logs nothing.
    filter: Option<String>,
}

/// `GET /api/admin/logs`.
pub(in crate::http) async fn show(_: Scoped<OperatorRead>, _: NoQuery) -> Json<LogView> {
    view()
}

/// `PATCH /api/admin/logs`: until this server ends.
pub(in crate::http) async fn change(
    operator: Scoped<OperatorWrite>,
    Body(LogPatch { filter }): Body<LogPatch>,
) -> Json<LogView> {
    // At a level that nearly every filter shows, before and after.
    tracing::warn!(%filter, by = %operator.actor().kind, "an operator changes what is logged");
    set_log_filter(filter);
    view()
}

fn view() -> Json<LogView> {
    Json(LogView { filter: log_filter().map(|filter| filter.to_string()) })
}
