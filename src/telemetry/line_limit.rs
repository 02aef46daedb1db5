//! Lines of the log that tenants cause: one per organisation and minute.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::OrgId;
use crate::runtime::Stopwatch;

/// A key gets a line once in this time.
const EVERY: Duration = Duration::from_mins(1);
/// Maximum keys that are remembered. Beyond it, others get no line until some are forgotten.
const KEYS_MAX: usize = 10_000;

/// One kind of line, of which each key gets one per minute. It is a static beside the line:
///
/// ```ignore
/// static DEAD_LETTERS: OrgLines = OrgLines::new();
/// if let Some(unlogged) = DEAD_LETTERS.due(org) {
///     tracing::warn!(%org, unlogged, "delivery became a dead letter");
/// }
/// ```
#[derive(Debug)]
pub struct LineLimit<K>(LazyLock<Mutex<HashMap<K, LastLine>>>);

/// One line per organisation and minute.
pub type OrgLines = LineLimit<OrgId>;

#[derive(Debug)]
struct LastLine {
    at: Stopwatch,
    /// Lines that were left out since.
    unlogged: u64,
}

impl<K: Eq + Hash> LineLimit<K> {
    /// A kind of line that no key has had yet.
    #[expect(clippy::new_without_default, reason = "a kind of line is named where it is declared")]
    pub const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// How many lines of this key were left out since its last one, if one is due now; `None` if not.
    pub fn due(&self, key: K) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = last.get_mut(&key) {
            if line.at.elapsed() < EVERY {
                line.unlogged += 1;
                return None;
            }
            line.at = Stopwatch::start();
            return Some(std::mem::take(&mut line.unlogged));
        }
        if last.len() >= KEYS_MAX {
            last.retain(|_, line| line.at.elapsed() < EVERY);
        }
        (last.len() < KEYS_MAX).then(|| {
            last.insert(key, LastLine { at: Stopwatch::start(), unlogged: 0 });
            0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn organisation_gets_one_line_and_takes_none_from_others() {
        let lines = OrgLines::new();
        let [one, other] = [1, 2].map(|micros| OrgId::mint(Timestamp::from_micros(micros)));
        assert_eq!((lines.due(one), lines.due(one), lines.due(one)), (Some(0), None, None));
        assert_eq!(lines.due(other), Some(0));
    }

    #[test]
    fn number_of_keys_is_bounded() {
        let lines = LineLimit::new();
        let due = (0..KEYS_MAX + 5).filter(|key| lines.due(*key).is_some()).count();
        assert_eq!(due, KEYS_MAX);
    }
}
