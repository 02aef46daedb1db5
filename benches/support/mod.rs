//! What benches on a store share.

use std::path::Path;
use std::time::Duration;

use hookgate::config::StoreConfig;

/// The defaults in a directory of the bench's own, but for the patience with a busy database.
pub(crate) fn store_config(directory: &Path) -> StoreConfig {
    StoreConfig {
        data_dir: directory.to_owned(),
        database_url: None,
        database_connections: 8,
        database_timeout: Duration::from_mins(1),
        dedup_window: Duration::from_hours(7 * 24),
        secrets_key: None,
    }
}
