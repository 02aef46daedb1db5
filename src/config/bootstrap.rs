//! Settings of the first start.

use std::fmt;

use clap::Args;

/// Settings of the first start: keys that exist before the server does, as in a deployment that hands them out.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "First start")]
pub struct BootstrapConfig {
    /// The first organisation's API key, made by `hookgate key generate`; a random one if unset. A first start
    /// alone reads it. BOOTSTRAP_API_KEY_FILE names a file that holds it
    #[arg(
        long,
        env = "BOOTSTRAP_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub bootstrap_api_key: Option<BootstrapKey>,
    /// The first operator's key, in the same way; BOOTSTRAP_OPERATOR_KEY_FILE names a file that holds it
    #[arg(
        long,
        env = "BOOTSTRAP_OPERATOR_KEY",
        value_name = "KEY",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub bootstrap_operator_key: Option<BootstrapKey>,
}

/// The text of a key, as it was given.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapKey(String);

impl BootstrapKey {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for BootstrapKey {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for BootstrapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BootstrapKey(…)")
    }
}
