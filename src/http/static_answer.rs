//! Answers that stay the same while the server runs: documents and the files of pages.
//!
//! Each is made once, with a strong entity tag per form (RFC 9110 section 8.8.3): as it is, and compressed by gzip.

use std::io::{Read, Write};

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use super::header_extract::IfNoneMatch;
use super::request::{Input, RequestSchema};

/// Bytes of an entity tag's digest.
const TAG_BYTES: usize = 16;
/// Files change with the version of the server alone.
const KEPT: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// Such an answer.
#[derive(Debug)]
pub(super) struct StaticAnswer {
    media_type: HeaderValue,
    /// The `Content-Security-Policy` of a page.
    policy: Option<HeaderValue>,
    plain: Form,
    gzip: Form,
}

/// One form of an answer.
#[derive(Debug)]
struct Form {
    bytes: Bytes,
    etag: String,
}

/// What the caller has of such an answer, and which form it takes.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    known: IfNoneMatch,
    gzip: bool,
}

impl StaticAnswer {
    /// Compresses `plain`.
    pub(super) fn new(media_type: &'static str, plain: impl Into<Bytes>) -> Result<Self, ApiError> {
        let plain = plain.into();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&plain).map_err(ApiError::internal)?;
        let gzip = encoder.finish().map_err(ApiError::internal)?;
        Ok(Self::of_forms(media_type, plain, gzip.into()))
    }

    /// Unpacks a file that was compressed ahead.
    pub(super) fn unpack(media_type: &'static str, gzip: &'static [u8]) -> Result<Self, ApiError> {
        let mut plain = Vec::new();
        GzDecoder::new(gzip).read_to_end(&mut plain).map_err(ApiError::internal)?;
        Ok(Self::of_forms(media_type, plain.into(), Bytes::from_static(gzip)))
    }

    /// The same with a `Content-Security-Policy`.
    pub(super) fn with_policy(self, policy: &'static str) -> Self {
        Self { policy: Some(HeaderValue::from_static(policy)), ..self }
    }

    /// The answer to a caller.
    ///
    /// # Errors
    /// Never in practice: entity tags are valid header values.
    pub(super) fn answer(&self, wanted: &Wanted) -> Result<Response, ApiError> {
        let form = if wanted.gzip { &self.gzip } else { &self.plain };
        let is_known = wanted.known.has(&form.etag);
        let body = if is_known { Body::empty() } else { Body::from(form.bytes.clone()) };
        let mut response = Response::new(body);
        let etag = HeaderValue::from_str(&form.etag).map_err(ApiError::internal)?;
        let headers = response.headers_mut();
        headers.insert(ETAG, etag);
        headers.insert(CACHE_CONTROL, KEPT);
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        if is_known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        headers.insert(CONTENT_TYPE, self.media_type.clone());
        if wanted.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(policy) = &self.policy {
            headers.insert(CONTENT_SECURITY_POLICY, policy.clone());
        }
        Ok(response)
    }

    fn of_forms(media_type: &'static str, plain: Bytes, gzip: Bytes) -> Self {
        let digest = Sha256::digest(&plain);
        let digits = URL_SAFE_NO_PAD.encode(digest.get(..TAG_BYTES).unwrap_or_default());
        Self {
            media_type: HeaderValue::from_static(media_type),
            policy: None,
            plain: Form { bytes: plain, etag: format!("\"{digits}\"") },
            gzip: Form { bytes: gzip, etag: format!("\"{digits}-gzip\"") },
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Wanted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let known = IfNoneMatch::from_request_parts(parts, state).await?;
        Ok(Self { known, gzip: takes_gzip(&parts.headers) })
    }
}

impl Input for Wanted {
    fn describe(schema: &mut RequestSchema) {
        IfNoneMatch::describe(schema);
    }
}

/// Whether `Accept-Encoding` names gzip, or everything, with a weight over zero: RFC 9110 section 12.5.3.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = None;
    for coding in texts.flat_map(|text| text.split(',')) {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        let is_taken = weight.trim().parse::<f32>().is_ok_and(|weight| weight > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return is_taken,
            "*" => any = Some(is_taken),
            _ => {}
        }
    }
    any.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_to_those_who_take_it() {
        let takes = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(text));
            takes_gzip(&headers)
        };
        assert!(takes("gzip") && takes("br, GZIP;q=0.5") && takes("*") && takes("deflate,gzip"));
        assert!(!takes("gzip;q=0") && !takes("br") && !takes("*;q=0") && !takes("*, gzip;q=0"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn forms_have_tags_of_their_own() {
        let answer = StaticAnswer::new("text/plain", "a".repeat(1000)).unwrap();
        assert_ne!(answer.plain.etag, answer.gzip.etag);
        assert!(answer.gzip.bytes.len() < answer.plain.bytes.len());
    }
}
