//! Facts about this process that the system knows.

/// The process's resident memory in bytes; `None` where the system has no `/proc`.
pub fn process_memory_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_is_known() {
        assert!(process_memory_bytes().unwrap() > 1_000_000);
    }
}
