//! How a request has come, and by which address its caller knows this server.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};

use axum::extract::FromRequestParts;
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::client_ip;
use super::request::Input;
use super::request_context::RequestContext;
use super::state::AppState;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    /// By https.
    Secure,
    /// By http, from this machine as its browser sees it.
    Loopback,
    /// By http over a network.
    Plain,
}

/// The address of this server as the caller has it, such as `https://hooks.example.com`.
#[derive(Debug)]
pub(super) struct OwnAddress(pub(super) String);

impl Transport {
    /// How a request from `peer` has come. A trusted proxy tells by `X-Forwarded-Proto` what it was asked by.
    pub(super) fn of(app: &AppState, headers: &HeaderMap, peer: IpAddr) -> Self {
        let settings = app.settings();
        let told = headers.get(&X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
        let is_trusted = settings.trusted_proxies.contain(peer.to_canonical());
        if settings.speaks_tls || (is_trusted && told == Some(b"https")) {
            Self::Secure
        } else if host(headers).is_some_and(is_loopback)
            && !headers.contains_key(&X_FORWARDED_PROTO)
            && !headers.contains_key(client_ip::X_FORWARDED_FOR)
        {
            // Without a proxy, that is: one may write whatever host into its requests.
            Self::Loopback
        } else {
            Self::Plain
        }
    }
}

impl OwnAddress {
    /// The address in the head of a request that has come by `transport`.
    pub(super) fn of(transport: Transport, headers: &HeaderMap) -> Self {
        let scheme = if transport == Transport::Secure { "https" } else { "http" };
        Self(format!("{scheme}://{}", host(headers).unwrap_or("127.0.0.1:3000")))
    }
}

impl FromRequestParts<AppState> for OwnAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, Infallible> {
        let context = RequestContext::from_request_parts(parts, app).await;
        let transport = context
            .map_or(Transport::Plain, |context| Transport::of(app, &parts.headers, context.peer));
        Ok(Self::of(transport, &parts.headers))
    }
}

impl Input for OwnAddress {}

/// The host that a request asks.
pub(super) fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// Whether a host, with or without a port, is the machine that the browser runs on.
fn is_loopback(host: &str) -> bool {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse().is_ok_and(|address: std::net::Ipv4Addr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost:3000", "LOCALHOST", "127.0.0.1:1", "127.9.9.9", "[::1]:3000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1", "[::2]:3000", "127.0.0.1.nip.io", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
