//! Settings that the benches on a store share.

use std::path::Path;
use std::time::Duration;

use hookgate::config::StoreConfig;

/// The default settings in this directory, with a longer timeout for a busy database.
pub(crate) fn store_config(directory: &Path) -> StoreConfig {
    let database_timeout = Duration::from_mins(1);
    StoreConfig {
        database_connections: 8,
        database_timeout,
        ..StoreConfig::in_directory(directory)
    }
}
