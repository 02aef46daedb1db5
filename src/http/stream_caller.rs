//! The caller of a request whose answer is a stream.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::client_ip;
use super::error::ApiError;
use super::extract::{Needs, Scoped, X_API_KEY};
use super::request::Input;
use super::request_context::RequestContext;
use super::state::AppState;

/// The key of a request whose answer is a stream. It is checked again for each part, so that a stream ends with its key.
#[derive(Clone)]
pub(super) struct StreamCaller<N> {
    /// Those that may present a key.
    headers: HeaderMap,
    address: IpAddr,
    needs: PhantomData<N>,
}

impl<N: Needs> StreamCaller<N> {
    /// The caller, with the permit of one more read.
    pub(super) async fn again(&self, app: &AppState) -> Result<Scoped<N>, ApiError> {
        Scoped::of_reader(&self.headers, app, self.address).await
    }
}

impl<N> FromRequestParts<AppState> for StreamCaller<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &AppState) -> Result<Self, ApiError> {
        let peer = RequestContext::from_request_parts(parts, app).await?.peer;
        let address = client_ip::address(peer, &parts.headers, &app.settings().trusted_proxies);
        let mut headers = parts.headers.clone();
        let others: Vec<HeaderName> =
            headers.keys().filter(|name| !presents_key(name)).cloned().collect();
        for name in &others {
            headers.remove(name);
        }
        Ok(Self { headers, address, needs: PhantomData })
    }
}

impl<N> Input for StreamCaller<N> {}

/// It holds a key.
impl<N> fmt::Debug for StreamCaller<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamCaller").field("address", &self.address).finish_non_exhaustive()
    }
}

fn presents_key(name: &HeaderName) -> bool {
    [X_API_KEY, AUTHORIZATION].contains(name)
}
