//! Background threads, of lower priority than the threads that answer requests.
//!
//! Storing and delivering would compete with accepting for the CPU exactly when tenants send most. They run on threads
//! of their own that get about a tenth of a contended core, so that a burst is accepted first and stored once it is
//! over. Idle cores are fully available to them.

use tokio::runtime::{Builder, Handle, Runtime};

/// The niceness of background threads: a weight of about a tenth (sched(7), "nice").
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
        Self::start_with(NICENESS)
    }

    /// The same with threads of this niceness more than that of the process: 19 is the most that the system knows.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start_with(niceness: i32) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .thread_name("background")
            .on_thread_start(move || be_nice(niceness))
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// The runtime to spawn on.
    pub fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // An async thread must not wait for a runtime, and its tasks have ended by now.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Lowers the calling thread's priority. On Linux the call affects the thread, not the process; threads that it
/// starts, such as those of SQLite, inherit the priority.
fn be_nice(niceness: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, niceness)
    {
        tracing::debug!(%error, "cannot lower a background thread's priority");
    }
}
