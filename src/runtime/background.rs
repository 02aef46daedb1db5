//! Threads for the work that nobody waits for.
//!
//! Storing and delivering would take the CPU from accepting exactly when tenants send most. They
//! run on threads of their own that the scheduler gives about a tenth of a contended core, so that a
//! burst is accepted first and stored as soon as it is over. Idle cores are theirs as before.

use tokio::runtime::{Builder, Handle, Runtime};

/// Added to the niceness of background threads: a weight of about a tenth (sched(7), "nice").
const NICENESS: i32 = 10;

/// The background threads, stopped when this is dropped.
#[derive(Debug)]
pub struct Background(Option<Runtime>);

impl Background {
    /// Starts as many threads as there are CPUs.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("background")
            .on_thread_start(be_nice)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Where to spawn.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A runtime must not be waited for on an async thread, and what it ran has ended by now.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the calling thread's priority. On Linux the call is about the thread, not the process; a
/// thread's children, such as the ones that run SQLite, inherit it.
fn be_nice() {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, NICENESS)
    {
        tracing::debug!(%error, "cannot lower a background thread's priority");
    }
}
