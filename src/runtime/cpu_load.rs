//! CPU load: the share of time during which the threads of a runtime are busy.

use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;

use super::Stopwatch;

/// The shortest time to measure over: a thread updates its busy time only when it runs out of work.
const WINDOW: Duration = Duration::from_millis(10);

/// The load of a runtime's threads.
pub struct CpuLoad {
    runtime: Handle,
    since: Stopwatch,
    busy: Duration,
    share: f64,
}

impl CpuLoad {
    /// The load of a runtime's threads from now on.
    pub fn of(runtime: Handle) -> Self {
        let busy = busy(&runtime);
        Self { runtime, since: Stopwatch::start(), busy, share: 0.0 }
    }

    /// The average share of time during which the threads were busy or waited for a CPU, from 0 to about 1, since the
    /// last call that was at least 10 ms ago.
    pub fn share(&mut self) -> f64 {
        let now = Stopwatch::start();
        let span = self.since.until(now);
        if span >= WINDOW {
            let before = std::mem::replace(&mut self.busy, busy(&self.runtime));
            let threads = u32::try_from(self.runtime.metrics().num_workers()).unwrap_or(u32::MAX);
            self.share = self.busy.saturating_sub(before).div_duration_f64(span * threads);
            self.since = now;
        }
        self.share
    }
}

impl fmt::Debug for CpuLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuLoad").field("share", &self.share).finish_non_exhaustive()
    }
}

fn busy(runtime: &Handle) -> Duration {
    let metrics = runtime.metrics();
    (0..metrics.num_workers()).map(|worker| metrics.worker_total_busy_duration(worker)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn busy_threads_have_load() {
        let runtime = Handle::current();
        let mut load = CpuLoad::of(runtime.clone());
        let work = runtime.spawn(async {
            let watch = Stopwatch::start();
            while watch.elapsed() < 2 * WINDOW {
                std::hint::spin_loop();
            }
        });
        assert!(work.await.is_ok());
        // The thread updates its busy time once it has no work left.
        tokio::time::sleep(WINDOW).await;
        assert!(load.share() > 0.0);
    }
}
