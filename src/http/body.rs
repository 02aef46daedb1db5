//! Reads request bodies: of the declared media type, whole, decompressed, up to a limit, and within a budget.
//!
//! A body takes its share of the [budget](super::byte_budget) as its bytes arrive, so that a client that declares much
//! and sends little holds little. It gives it back once the request is done with it. A body that arrives in one piece,
//! as small ones do, takes none: it lies in the buffer that its connection has anyway.
//!
//! The rest of a body that is refused is left to [`super::unread_body`].

use std::ops::Deref;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use futures_util::StreamExt;

use super::body_buffer::BodyBuffer;
use super::body_decoder::{BodyDecoder, Coding};
use super::byte_budget::{ByteBudget, BytePermit, Owner};
use super::error::ApiError;
use super::metrics::RejectedRequest;
use super::state::AppState;
use crate::domain::MediaType;

/// By how many bytes a compressed body may be longer than the bound of what it decodes to: what does not compress, and
/// is flushed often, becomes a little longer.
const COMPRESSED_MORE_MAX: usize = 64 * 1024;

/// A body, and what it takes from the budget.
#[derive(Debug)]
pub(super) struct ReceivedBody {
    bytes: Bytes,
    permit: Option<BytePermit>,
}

/// What bounds a body.
#[derive(Clone, Copy)]
struct Bounds<'a> {
    budget: &'a ByteBudget,
    owner: Owner,
    bytes_max: usize,
}

impl ReceivedBody {
    /// The bytes. They are paid for until this is dropped.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Drops the bytes and keeps what they take from the budget, for what was made of them.
    pub(super) fn into_permit(self) -> Option<BytePermit> {
        self.permit
    }
}

impl Deref for ReceivedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Checks that the body is declared as `application/json`, or as a type built on it (`+json`).
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    match media_type(headers) {
        MediaType::Json => Ok(()),
        MediaType::NdJson | MediaType::Other => {
            Err(ApiError::UnsupportedMediaType { taken: "application/json" })
        }
    }
}

/// The declared media type of the body.
pub(super) fn media_type(headers: &HeaderMap) -> MediaType {
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).map_or(MediaType::Other, MediaType::of)
}

/// Reads the body of at most `bytes_max` bytes.
pub(super) async fn read(
    app: &AppState,
    owner: Owner,
    request: Request,
    bytes_max: usize,
) -> Result<ReceivedBody, ApiError> {
    let (head, body) = request.into_parts();
    read_beside(app, owner, &head.headers, body, bytes_max).await
}

/// Reads the body of at most `bytes_max` bytes that came with these headers.
pub(super) async fn read_beside(
    app: &AppState,
    owner: Owner,
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<ReceivedBody, ApiError> {
    let bounds = Bounds { budget: app.bodies(), owner, bytes_max };
    let received = receive(bounds, headers, body).await;
    if let Err(ApiError::BodyBytes(_)) = received {
        app.metrics.http.rejected_requests_total.of(RejectedRequest::BodyBytes).inc();
    }
    received
}

async fn receive(
    bounds: Bounds<'_>,
    headers: &HeaderMap,
    body: Body,
) -> Result<ReceivedBody, ApiError> {
    let (coding, declared) = (coding(headers)?, declared_length(headers));
    if declared > bounds.bytes_max {
        return Err(ApiError::TooLarge { what: "the body", bytes_max: bounds.bytes_max });
    }
    let mut chunks = body.into_data_stream();
    let Some(first) = next(&mut chunks).await? else {
        return Ok(ReceivedBody { bytes: Bytes::new(), permit: None });
    };
    if coding.is_none() && first.len() == declared {
        return Ok(ReceivedBody { bytes: first, permit: None });
    }
    let permit = bounds.budget.permit(bounds.owner);
    let is_length_known = coding.is_none() && declared > 0;
    let expected = if is_length_known { declared } else { bounds.bytes_max };
    let buffer = BodyBuffer::new(permit, expected, bounds.bytes_max);
    let buffer = match coding {
        None => plain(buffer, first, chunks).await?,
        Some(coding) => {
            // Boxed, so that the future of a plain body does not grow to the size of a decoder.
            Box::pin(decompressed(coding, buffer, bounds.bytes_max, first, chunks)).await?
        }
    };
    let (bytes, permit) = buffer.finish();
    Ok(ReceivedBody { bytes, permit: Some(permit) })
}

async fn plain(
    mut buffer: BodyBuffer,
    first: Bytes,
    mut chunks: BodyDataStream,
) -> Result<BodyBuffer, ApiError> {
    let mut chunk = Some(first);
    while let Some(bytes) = chunk {
        buffer.push(&bytes)?;
        chunk = next(&mut chunks).await?;
    }
    Ok(buffer)
}

async fn decompressed(
    coding: Coding,
    buffer: BodyBuffer,
    bytes_max: usize,
    first: Bytes,
    mut chunks: BodyDataStream,
) -> Result<BodyBuffer, ApiError> {
    let mut decoder = BodyDecoder::new(coding, buffer)?;
    let (mut chunk, mut received) = (Some(first), 0);
    while let Some(bytes) = chunk {
        // Or what decodes to nothing would have no end.
        received += bytes.len();
        if received > bytes_max + COMPRESSED_MORE_MAX {
            return Err(ApiError::TooLarge { what: "the body", bytes_max });
        }
        decoder.push(&bytes).await?;
        chunk = next(&mut chunks).await?;
    }
    decoder.finish()
}

async fn next(chunks: &mut BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    chunks.next().await.transpose().map_err(|_| ApiError::IncompleteBody)
}

/// The declared length in bytes; 0 if there is none, as for a chunked body.
fn declared_length(headers: &HeaderMap) -> usize {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How the body is compressed, RFC 9110 section 8.4; `None` if it is not. One coding is taken, not several over one
/// another.
fn coding(headers: &HeaderMap) -> Result<Option<Coding>, ApiError> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(None),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => Ok(None),
        (Some(coding), None) => {
            Coding::named(coding).map(Some).ok_or(ApiError::UnsupportedEncoding)
        }
        (Some(_), Some(_)) => Err(ApiError::UnsupportedEncoding),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::telemetry::Gauge;

    #[test]
    fn only_what_is_declared_as_json_passes() {
        let declared = |text: &str| HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())]);
        assert!(require_json(&declared("application/json; charset=utf-8")).is_ok());
        for bad in ["", "text/plain", "application/x-ndjson"] {
            assert!(require_json(&declared(bad)).is_err(), "{bad}");
        }
        assert!(require_json(&HeaderMap::new()).is_err());
    }

    fn budget(bytes: usize) -> ByteBudget {
        ByteBudget::new(bytes, Gauge::new("held", "bytes").unwrap())
    }

    fn pieces(pieces: &[&[u8]]) -> Body {
        let pieces: Vec<_> =
            pieces.iter().map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    async fn received(
        budget: &ByteBudget,
        headers: &[(&'static str, &str)],
        body: Body,
        bytes_max: usize,
    ) -> Result<ReceivedBody, ApiError> {
        let header = |(name, value): &(&'static str, &str)| {
            (axum::http::HeaderName::from_static(name), value.parse().unwrap())
        };
        let headers: HeaderMap = headers.iter().map(header).collect();
        receive(Bounds { budget, owner: Owner::Anyone, bytes_max }, &headers, body).await
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    const GZIP: &[(&str, &str)] = &[("content-encoding", "gzip")];

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        let budget = budget(1000);
        let body = received(&budget, &[], pieces(&[b"ab", b"", b"c", b"d"]), 4).await.unwrap();
        assert_eq!(&*body, b"abcd");
        assert_eq!(
            budget.check(Owner::Operators, 997),
            Err(super::super::byte_budget::Exhausted::Total)
        );
        drop(body);
        assert_eq!(budget.check(Owner::Operators, 1000), Ok(()));
        let over = received(&budget, &[], pieces(&[b"ab", b"cde"]), 4).await;
        assert!(matches!(over, Err(ApiError::TooLarge { bytes_max: 4, .. })));
        assert_eq!(&*received(&budget, &[], Body::empty(), 4).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn declared_length_over_the_limit_is_refused_and_one_that_lies_gains_nothing() {
        let budget = budget(1000);
        let over = received(&budget, &[("content-length", "5")], pieces(&[b"abcde"]), 4).await;
        assert!(matches!(over, Err(ApiError::TooLarge { .. })));
        let lie = received(&budget, &[("content-length", "2")], pieces(&[b"abcde"]), 4).await;
        assert!(matches!(lie, Err(ApiError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn body_that_the_budget_has_no_bytes_for_is_refused() {
        let piece = vec![b' '; 64 * 1024];
        let budget = budget(150 * 1024);
        let body = pieces(&[&piece, &piece, &piece]);
        let over = received(&budget, &[], body, 1024 * 1024).await;
        assert!(matches!(over, Err(ApiError::BodyBytes(_))), "{over:?}");
        assert_eq!(budget.check(Owner::Operators, 150 * 1024), Ok(()));
    }

    #[tokio::test]
    async fn gzip_counts_decompressed_bytes() {
        let budget = budget(2 * 1024 * 1024);
        let compressed = gzip(&vec![b' '; 1024 * 1024]);
        let (head, tail) = compressed.split_at(500);
        let body = received(&budget, GZIP, pieces(&[head, tail]), 1024 * 1024).await.unwrap();
        assert_eq!(body.len(), 1024 * 1024);
        drop(body);
        let bomb = received(&budget, GZIP, pieces(&[&compressed]), 1024 * 1024 - 1).await;
        assert!(matches!(bomb, Err(ApiError::TooLarge { .. })), "{bomb:?}");
        let bomb = gzip(&vec![b' '; 3 * 1024 * 1024]);
        let bomb = received(&budget, GZIP, pieces(&[&bomb]), 4 * 1024 * 1024).await;
        assert!(matches!(bomb, Err(ApiError::BodyBytes(_))), "{bomb:?}");
        // RFC 1952: members one after the other are one body.
        let members = [gzip(b"ab"), gzip(b"cd")].concat();
        assert_eq!(&*received(&budget, GZIP, pieces(&[&members]), 9).await.unwrap(), b"abcd");
    }

    #[tokio::test]
    async fn broken_gzip_and_other_codings_are_refused() {
        let budget = budget(1024 * 1024);
        let whole = gzip(b"some text that is long enough to be cut");
        for broken in [&whole[..whole.len() - 1], &whole[..10], b"plain", &whole[..3]] {
            let refused = received(&budget, GZIP, pieces(&[broken]), 1000).await;
            assert!(matches!(refused, Err(ApiError::MalformedEncoding)), "{refused:?}");
        }
        for coding in ["br", "gzip, gzip", "compress", ""] {
            let headers = [("content-encoding", coding)];
            let refused = received(&budget, &headers, pieces(&[&whole]), 1000).await;
            assert!(matches!(refused, Err(ApiError::UnsupportedEncoding)), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn what_decodes_to_nothing_has_an_end() {
        let budget = budget(8 * 1024 * 1024);
        let members = gzip(b"").repeat(1_024);
        let body = received(&budget, GZIP, pieces(&[&members]), 4).await.unwrap();
        assert_eq!(&*body, b"");
        let more = gzip(b"").repeat(1_025);
        let refused = received(&budget, GZIP, pieces(&[&more]), 1_000_000).await;
        assert!(matches!(refused, Err(ApiError::MalformedEncoding)), "{refused:?}");
        let frames = zstd(b"").repeat(8_000);
        assert!(frames.len() > 4 + COMPRESSED_MORE_MAX);
        let headers = [("content-encoding", "zstd")];
        let refused = received(&budget, &headers, pieces(&[&frames]), 4).await;
        assert!(matches!(refused, Err(ApiError::TooLarge { bytes_max: 4, .. })), "{refused:?}");
    }

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// Frames that do not tell how long their content is, with a window of `1 << window_log` bytes.
    fn zstd_with(plain: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(plain: &[u8]) -> Vec<u8> {
        zstd_with(plain, 19)
    }

    type Encode = fn(&[u8]) -> Vec<u8>;

    const CODINGS: [(&str, Encode); 3] = [("gzip", gzip), ("deflate", deflate), ("ZSTD", zstd)];

    #[tokio::test]
    async fn every_coding_is_decoded_whole_and_up_to_the_limit() {
        let budget = budget(8 * 1024 * 1024);
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        for (coding, encode) in CODINGS {
            let headers = [("content-encoding", coding)];
            let encoded = encode(&text);
            for part in [1, 7, 4096, encoded.len()] {
                let parts: Vec<&[u8]> = encoded.chunks(part).collect();
                let body = received(&budget, &headers, pieces(&parts), text.len()).await.unwrap();
                assert!(*body == *text, "{coding} in parts of {part}");
            }
            let over = received(&budget, &headers, pieces(&[&encoded]), text.len() - 1).await;
            assert!(matches!(over, Err(ApiError::TooLarge { .. })), "{coding}: {over:?}");
            let cut = &encoded[..encoded.len() - 1];
            let bad = cut.iter().copied().chain([0xff; 9]).collect::<Vec<u8>>();
            let plain = b"plain text that is long enough for any header";
            for broken in [cut, &encoded[..3], &bad, plain] {
                let refused = received(&budget, &headers, pieces(&[broken]), text.len()).await;
                assert!(matches!(refused, Err(ApiError::MalformedEncoding)), "{coding}");
            }
        }
        assert_eq!(budget.check(Owner::Operators, 8 * 1024 * 1024), Ok(()));
    }

    #[tokio::test]
    async fn bombs_of_every_coding_end_at_the_budget() {
        let budget = budget(2 * 1024 * 1024);
        let zeros = vec![0; 64 * 1024 * 1024];
        for (coding, encode) in CODINGS {
            let headers = [("content-encoding", coding)];
            let bomb = received(&budget, &headers, pieces(&[&encode(&zeros)]), zeros.len()).await;
            assert!(matches!(bomb, Err(ApiError::BodyBytes(_))), "{coding}: {bomb:?}");
        }
    }

    #[tokio::test]
    async fn zstd_has_frames_one_after_the_other_and_windows_of_8_mib() {
        let budget = budget(4 * 1024 * 1024);
        let headers = [("content-encoding", "zstd")];
        let frames = [zstd(b"ab"), zstd_with(b"cd", 23), zstd(b"")].concat();
        let body = received(&budget, &headers, pieces(&[&frames]), 9).await.unwrap();
        assert_eq!(&*body, b"abcd");
        let wide = zstd_with(&[b' '; 100], 24);
        let refused = received(&budget, &headers, pieces(&[&wide]), 1000).await;
        assert!(matches!(refused, Err(ApiError::MalformedEncoding)), "{refused:?}");
    }
}
