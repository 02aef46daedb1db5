//! The memory of the server's process, sampled while a run goes on.

use std::time::Duration;

/// The time between two samples.
const SAMPLE_PAUSE: Duration = Duration::from_millis(50);

/// Waits for `work`, and returns the most resident memory of process `id` meanwhile, in bytes; `None` without a
/// process, and where the system has no `/proc`.
pub(crate) async fn peak_during<T>(
    id: Option<u32>,
    work: impl Future<Output = T>,
) -> (T, Option<u64>) {
    let mut most = None;
    let sampling = async {
        loop {
            most = most.max(id.and_then(resident_bytes));
            tokio::time::sleep(SAMPLE_PAUSE).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        never = sampling => never,
    };
    (done, most.max(id.and_then(resident_bytes)))
}

/// The resident memory of a process: the second field of proc(5)'s `statm`, in pages.
fn resident_bytes(id: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn peak_of_this_process_is_known() {
        let (done, peak) = peak_during(Some(std::process::id()), async { 7 }).await;
        assert!(done == 7 && peak.is_some_and(|bytes| bytes > 1_000_000));
        assert_eq!(peak_during(None, async {}).await.1, None);
    }
}
