//! The advisory locks of a PostgreSQL database: each keeps servers from doing one kind of work at the same time. SQLite
//! needs none, since one transaction at a time writes there.

/// "hookgate" in ASCII. The locks of other programs on the same database have other numbers.
const FIRST: i64 = 0x686f_6f6b_6761_7465;

/// Making partitions.
pub(super) const PARTITIONS: i64 = FIRST;
/// Migrating through a pooler.
pub(super) const MIGRATION: i64 = FIRST + 1;
/// Folding what was counted into the rollups.
pub(super) const FOLDING: i64 = FIRST + 2;
/// A step of retention.
pub(super) const RETENTION: i64 = FIRST + 3;
/// Making the first keys.
pub(super) const FIRST_KEYS: i64 = FIRST + 4;
