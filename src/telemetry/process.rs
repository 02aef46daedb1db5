//! Facts about this process and its machine that the system knows.

use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::{FloatCounter, Gauge, metrics};

metrics! {
    /// Metrics of the process.
    pub struct ProcessMetrics {
        /// CPU time that the process has used, in seconds.
        @core process_cpu_seconds_total: FloatCounter,
        /// Resident memory, in bytes.
        @core process_resident_memory_bytes: Gauge,
        /// Virtual memory, in bytes.
        process_virtual_memory_bytes: Gauge,
        /// Open file descriptors.
        @core process_open_fds: Gauge,
        /// Limit of open file descriptors.
        @core process_max_fds: Gauge,
        /// When the process started, in seconds since 1970.
        @core process_start_time_seconds: Gauge,
        /// CPUs that the process may use.
        @core hookgate_cpus: Gauge,
        /// Memory that the process may use, in bytes: the limit of its cgroup, or else the machine's; 0 if unknown.
        @core hookgate_memory_limit_bytes: Gauge,
    }
}

impl ProcessMetrics {
    /// Reads what changes. It costs a few system calls; where the system has no `/proc`, memory and file descriptors
    /// stay 0.
    pub fn refresh(&self) {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = std::time::Duration::new(
            u64::try_from(used.tv_sec).unwrap_or_default(),
            u32::try_from(used.tv_nsec).unwrap_or_default(),
        );
        // The library's counters only add.
        let more = used.as_secs_f64() - self.process_cpu_seconds_total.get();
        self.process_cpu_seconds_total.inc_by(more.max(0.0));
        if let Some([total, resident]) = memory_pages() {
            let page = i64::try_from(rustix::param::page_size()).unwrap_or(i64::MAX);
            self.process_virtual_memory_bytes.set(total.saturating_mul(page));
            self.process_resident_memory_bytes.set(resident.saturating_mul(page));
        }
        if let Some(open) = open_descriptors() {
            self.process_open_fds.set(open);
        }
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.process_max_fds.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// Sets what stays as it is for the life of the process, which started at this second since 1970.
    pub fn set_constants(&self, started: i64) {
        self.process_start_time_seconds.set(started);
        let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        self.hookgate_cpus.set(i64::try_from(cpus).unwrap_or(i64::MAX));
        self.hookgate_memory_limit_bytes.set(memory_limit_bytes().unwrap_or_default());
    }
}

/// The process's resident memory in bytes; `None` where the system has no `/proc`.
pub fn process_memory_bytes() -> Option<u64> {
    let [_, resident] = memory_pages()?;
    Some(u64::try_from(resident).ok()? * rustix::param::page_size() as u64)
}

/// Pages of virtual and of resident memory.
fn memory_pages() -> Option<[i64; 2]> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut numbers = statm.split_ascii_whitespace();
    Some([numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?])
}

/// Open file descriptors. Linux tells their number as the size of the directory from 6.2 on; before, they are counted.
fn open_descriptors() -> Option<i64> {
    let told = fs::metadata("/proc/self/fd").ok()?.len();
    let open = if told > 0 { told } else { fs::read_dir("/proc/self/fd").ok()?.count() as u64 };
    i64::try_from(open).ok()
}

/// The limit of the cgroup (version 2, as a container sees its own), or else the memory of the machine.
fn memory_limit_bytes() -> Option<i64> {
    let of_cgroup = fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    let of_machine = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = of_machine.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: i64 = kib.trim().strip_suffix("kB")?.trim().parse().ok()?;
    let machine = kib.saturating_mul(1024);
    Some(of_cgroup.trim().parse().map_or(machine, |limit: i64| limit.min(machine)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Registry;

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_is_known() {
        assert!(process_memory_bytes().unwrap() > 1_000_000);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn process_tells_its_use_of_the_machine() {
        let metrics = ProcessMetrics::register(&Registry::new()).unwrap();
        metrics.set_constants(1_800_000_000);
        metrics.refresh();
        let used = metrics.process_cpu_seconds_total.get();
        assert!(used > 0.0);
        metrics.refresh();
        assert!(metrics.process_cpu_seconds_total.get() >= used);
        let (open, max) = (metrics.process_open_fds.get(), metrics.process_max_fds.get());
        assert!(open > 2 && open < max, "{open} of {max}");
        let (resident, limit) = (
            metrics.process_resident_memory_bytes.get(),
            metrics.hookgate_memory_limit_bytes.get(),
        );
        assert!(resident > 1_000_000 && resident < limit, "{resident} of {limit}");
        assert!(metrics.process_virtual_memory_bytes.get() >= resident);
        assert!(metrics.hookgate_cpus.get() > 0);
        assert_eq!(metrics.process_start_time_seconds.get(), 1_800_000_000);
    }
}
