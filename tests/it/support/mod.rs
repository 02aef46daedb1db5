//! What the tests stand on.

use std::time::Duration;

use reqwest::Client;

pub(crate) mod binary;
pub(crate) mod postgres;
pub(crate) mod receiver;
pub(crate) mod server;

/// A client for servers on this machine.
pub(crate) fn client() -> Client {
    // Nothing here speaks TLS, but the client is not built without a provider for it. It fails when
    // there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap()
}
