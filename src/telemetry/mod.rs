//! Telemetry: logs and metrics for operators.
//!
//! Each subsystem declares its metrics in its own `metrics.rs` and is given them when it is built;
//! the [`Registry`] here collects them for `/metrics`. New metrics begin with `hookgate_` and have a
//! base unit at the end of their names; labels have few values.

mod declare;
mod logs;
mod metric;
mod process;
mod registry;

pub(crate) use declare::{label, metrics};
pub use logs::init_logs;
pub use metric::{
    Buckets, COUNTS, Counter, CounterBy, CounterByText, FAST_SECONDS, Gauge, Histogram,
    HistogramBy, Kind, Label, Metric, SLOW_SECONDS,
};
pub use process::process_memory_bytes;
pub use registry::{Family, Registry};
