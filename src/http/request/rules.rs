//! What request values are checked against, beside their own form, and how unknown names are reported.

use crate::delivery::SsrfGuard;
use crate::domain::{Scopes, Timestamp, Violation};

/// Unknown and repeated names of one request that are listed at most: enough to see the mistake.
pub(super) const STRAY_NAMES_MAX: usize = 8;
/// Characters of an unknown name that are repeated to the caller.
const NAME_CHARS_MAX: usize = 64;

/// An unknown name as it is repeated to the caller.
pub(super) fn shortened(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}

/// A checked value, or the violations that it has.
pub(super) type Checked<T> = Result<T, Vec<Violation>>;

/// The context of a check.
pub(in crate::http) struct Rules<'a> {
    /// Which URLs endpoints may have.
    pub(super) guard: &'a SsrfGuard,
    /// The current time.
    pub(super) now: Timestamp,
    /// The scopes of the caller's key.
    pub(super) caller: Scopes,
}
