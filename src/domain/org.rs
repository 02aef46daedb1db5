//! Organisations: the tenants.

use serde::Serialize;

use super::{OrgId, Timestamp, Violation};

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// What people call it; not unique.
    pub name: String,
    /// Events a minute it may send; `None` follows the server's default.
    pub rate_limit_per_minute: Option<u32>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What to change of an organisation; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub struct OrgChange {
    /// A new name.
    pub name: Option<String>,
    /// A new limit; `Some(None)` goes back to the server's default.
    pub rate_limit_per_minute: Option<Option<u32>>,
}

impl Org {
    /// Bytes in a name at the most.
    pub const NAME_BYTES_MAX: usize = 128;
    /// Events a minute at the most; what one process could ever take in.
    pub const RATE_LIMIT_PER_MINUTE_MAX: u32 = 100_000_000;

    /// The rules for a name, of organisations and of keys alike.
    pub fn check_name(name: &str) -> Result<(), Violation> {
        let rule = "must be 1 to 128 bytes without control characters";
        if name.trim().is_empty() || name.len() > Self::NAME_BYTES_MAX {
            return Err(Violation::new("name", "length", rule));
        }
        if name.chars().any(char::is_control) {
            return Err(Violation::new("name", "format", rule));
        }
        Ok(())
    }

    /// The rule for a limit: 1 to 100,000,000 events a minute.
    pub fn check_rate_limit(per_minute: u32) -> Result<(), Violation> {
        if (1..=Self::RATE_LIMIT_PER_MINUTE_MAX).contains(&per_minute) {
            return Ok(());
        }
        Err(Violation::new(
            "rate_limit_per_minute",
            "range",
            "must be 1 to 100000000 events a minute",
        ))
    }
}
