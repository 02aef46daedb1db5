//! Where webhooks may go: the settings that the server and the command line share.

use clap::Args;

use super::Networks;

/// Where webhooks may go.
#[derive(Args, Clone, Debug, Default)]
pub struct DestinationConfig {
    /// Allow endpoints with http:// URLs and with private, loopback and link-local addresses
    #[arg(long, env = "ALLOW_PRIVATE_ENDPOINTS", num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub allow_private_endpoints: bool,
    /// Networks that are not public and in which https endpoints are allowed, such as
    /// 10.1.0.0/16,fd00::/8
    #[arg(
        long,
        env = "ALLOW_ENDPOINT_NETWORKS",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub allow_endpoint_networks: Networks,
}
