//! What every answer of the console has: its headers, and compression.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY,
    X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;

use crate::domain::FrameOrigin;
use crate::http::static_answer::takes_gzip;

/// Scripts, styles and requests from and to this server alone; no script or style in a page; no page in a frame.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
const NO_FRAME: &str = "frame-ancestors 'none'";
const REFERRER_POLICY: HeaderName = HeaderName::from_static("referrer-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// Shorter answers are not compressed.
const COMPRESSED_BYTES_MIN: u64 = 1024;
/// Enough for a page, and fast.
const LEVEL: u32 = 4;

/// The origins whose pages may show the answer to a request in a frame: none, unless its session is one of the portal.
#[derive(Clone, Debug, Default)]
pub(super) struct Framing(Arc<OnceLock<HeaderValue>>);

impl Framing {
    /// Lets pages of these origins show the answer to a request.
    pub(super) fn allow(parts: &Parts, origins: &[FrameOrigin]) {
        let Some(framing) = parts.extensions.get::<Self>().filter(|_| !origins.is_empty()) else {
            return;
        };
        let origins: Vec<&str> = origins.iter().map(FrameOrigin::as_str).collect();
        let allowed = format!("frame-ancestors {}", origins.join(" "));
        if let Ok(policy) = HeaderValue::try_from(POLICY.replace(NO_FRAME, &allowed)) {
            let _ = framing.0.set(policy);
        }
    }
}

/// Answers a request of the console.
pub(super) async fn answer(mut request: Request, next: Next) -> Response {
    let gzip = takes_gzip(request.headers());
    let framing = Framing::default();
    request.extensions_mut().insert(framing.clone());
    let mut response = next.run(request).await;
    secure(response.headers_mut());
    if let Some(policy) = framing.0.get() {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy.clone());
        // It knows no origins; browsers follow the policy.
        response.headers_mut().remove(X_FRAME_OPTIONS);
    }
    if gzip { compressed(response).await } else { response }
}

/// Sets the headers of the page of an error, which may be shown where the answer that it replaces may.
pub(super) fn secure_like(headers: &mut HeaderMap, replaced: &HeaderMap) {
    secure(headers);
    let policy = replaced.get(CONTENT_SECURITY_POLICY);
    if let Some(policy) = policy.filter(|_| !replaced.contains_key(X_FRAME_OPTIONS)) {
        headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
        headers.remove(X_FRAME_OPTIONS);
    }
}

/// Sets the headers that keep a page to itself.
pub(super) fn secure(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

async fn compressed(response: Response) -> Response {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_page = kind.is_some_and(|kind| kind.starts_with(b"text/html"));
    let bytes = response.body().size_hint().exact().unwrap_or_default();
    if !is_page || bytes < COMPRESSED_BYTES_MIN || response.headers().contains_key(CONTENT_ENCODING)
    {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(page) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Response::from_parts(head, Body::empty());
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    let Ok(gzip) = encoder.write_all(&page).and_then(|()| encoder.finish()) else {
        return Response::from_parts(head, Body::from(page));
    };
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, Body::from(gzip))
}
