//! The limit of open file descriptors (`RLIMIT_NOFILE`).
//!
//! Every connection, in either direction, and every open file takes one. The usual soft limit of 1,024 is for programs
//! that call `select(2)`, which knows no higher ones; this one does not.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of file descriptors to the hard one and returns it; `u64::MAX` when there is none. If it
/// cannot be raised, it is left as it is.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current.unwrap_or(u64::MAX);
    }
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of file descriptors");
            before.unwrap_or(u64::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_the_hard_one_afterwards() {
        let raised = raise_descriptor_limit();
        assert_eq!(getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX), raised);
        assert_eq!(raise_descriptor_limit(), raised);
    }
}
