//! The runtime of background tasks: clock, shutdown, wake-ups, heartbeats, backoff, TLS
//! of clients.

mod background;
mod backoff;
mod client_tls;
mod clock;
mod cpu_load;
mod descriptors;
mod disk_space;
mod gate;
mod heartbeat;
mod lifecycle;
mod wake;

pub use background::Background;
pub use backoff::Backoff;
pub use client_tls::{client_tls, read_authorities};
pub use clock::{Clock, Monotonic, Stopwatch};
pub use cpu_load::CpuLoad;
pub use descriptors::raise_descriptor_limit;
pub use disk_space::{DiskLevel, DiskSpace};
pub use gate::Gate;
pub use heartbeat::Heartbeat;
pub use lifecycle::{Lifecycle, Shutdown};
pub use wake::Wake;
