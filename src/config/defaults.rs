//! The defaults of a section, whatever the environment says.

use clap::{Args, Command};

/// A section of the settings with its defaults, for tests, benchmarks and tools.
///
/// The environment is not read. Every setting without a default is unset.
pub fn defaults<Section: Args>() -> Section {
    let command = Section::augment_args(Command::new("defaults"));
    let command = command.no_binary_name(true).mut_args(|argument| argument.env(None::<&str>));
    let matches = command.get_matches_from(std::iter::empty::<&str>());
    // Every setting has a default or is optional, so that this cannot fail.
    Section::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, StoreConfig};

    #[test]
    fn every_section_has_defaults() {
        let config: Config = defaults();
        assert_eq!((config.server.port, config.ingest.workers), (3000, None));
        let store = StoreConfig::in_directory("/somewhere");
        assert_eq!(store.sqlite_path().to_str(), Some("/somewhere/hookgate.db"));
        assert!(store.database_url.is_none() && store.secrets_key.is_none());
    }
}
