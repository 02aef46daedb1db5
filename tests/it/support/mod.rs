//! Test support: the server in this process and as a binary, receivers, databases.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hookgate::domain::ApiKeyId;
use reqwest::Client;

pub(crate) mod answer;
pub(crate) mod app;
pub(crate) mod binary;
pub(crate) mod collector;
pub(crate) mod conformance;
pub(crate) mod databases;
pub(crate) mod faulty;
pub(crate) mod h2_peer;
pub(crate) mod name_server;
pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod receiver;
pub(crate) mod server;
pub(crate) mod store;
pub(crate) mod temporary;
pub(crate) mod tls;
pub(crate) mod wait;

/// A client for servers on this machine.
pub(crate) fn client() -> Client {
    // The client cannot be built without a TLS provider. Installing it fails when there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(Duration::from_mins(1)).build().unwrap()
}

/// A well-formed key with this id and a secret derived from `seed`.
pub(crate) fn forged_key(id: ApiKeyId, seed: u16) -> String {
    let public = format!("hg_{}_", id.uuid().simple());
    let mut secret = [7; 32];
    secret[..2].copy_from_slice(&seed.to_be_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(public.as_bytes()), &secret);
    let tail = [&secret[..], &checksum.to_be_bytes()].concat();
    format!("{public}{}", URL_SAFE_NO_PAD.encode(tail))
}
