//! What request values are checked against, beside their own form.

use crate::delivery::SsrfGuard;
use crate::domain::{Scopes, Timestamp, Violation};

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
