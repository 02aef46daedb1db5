//! What an operator sees: log lines and metrics.

mod logs;
mod metrics;

pub use logs::init_logs;
pub use metrics::{
    CacheLookup, DbOperation, Metrics, RejectedRequest, WebhookResult, process_memory_bytes,
};
