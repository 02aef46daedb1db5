//! Reads request bodies: of the declared media type, whole, and up to a limit.

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::error::ApiError;
use crate::domain::MediaType;

/// Bytes of an oversized body that are read and dropped before it is refused. A client that sends
/// everything before it reads would otherwise find a closed connection instead of the answer.
const OVERFLOW_BYTES_MAX: usize = 1024 * 1024;

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
pub(super) async fn read(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    let (head, body) = request.into_parts();
    read_beside(&head.headers, body, bytes_max).await
}

/// Reads the body of at most `bytes_max` bytes that came with these headers.
pub(super) async fn read_beside(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, ApiError> {
    let declared = declared_length(headers);
    // A client that expects 100 Continue has sent nothing that would have to be dropped.
    if declared > bytes_max && headers.contains_key(EXPECT) {
        return Err(ApiError::TooLarge { what: "the body", bytes_max });
    }
    read_stream(body, declared, bytes_max).await
}

async fn read_stream(body: Body, declared: usize, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    if declared > bytes_max {
        return Err(refuse(chunks, bytes_max).await);
    }
    let Some(first) = next(&mut chunks).await? else {
        return Ok(Bytes::new());
    };
    // Small bodies arrive in one piece, which is not copied.
    if first.len() == declared {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(declared.max(first.len()));
    let mut piece = Some(first);
    while let Some(bytes) = piece {
        if whole.len() + bytes.len() > bytes_max {
            return Err(refuse(chunks, bytes_max).await);
        }
        whole.extend_from_slice(&bytes);
        piece = next(&mut chunks).await?;
    }
    Ok(whole.freeze())
}

async fn next(chunks: &mut BodyDataStream) -> Result<Option<Bytes>, ApiError> {
    chunks.next().await.transpose().map_err(|_| ApiError::IncompleteBody)
}

/// Drops a bounded part of the rest, so that the client gets the answer.
async fn refuse(mut chunks: BodyDataStream, bytes_max: usize) -> ApiError {
    let mut dropped = 0;
    while dropped < OVERFLOW_BYTES_MAX + bytes_max {
        match chunks.next().await {
            Some(Ok(bytes)) => dropped += bytes.len(),
            Some(Err(_)) | None => break,
        }
    }
    ApiError::TooLarge { what: "the body", bytes_max }
}

/// The declared length in bytes; 0 if there is none, as for a chunked body.
fn declared_length(headers: &HeaderMap) -> usize {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_declared_as_json_passes() {
        let declared = |text: &str| HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())]);
        assert!(require_json(&declared("application/json; charset=utf-8")).is_ok());
        for bad in ["", "text/plain", "application/x-ndjson"] {
            assert!(require_json(&declared(bad)).is_err(), "{bad}");
        }
        assert!(require_json(&HeaderMap::new()).is_err());
    }

    fn pieces(pieces: &[&'static str]) -> Body {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok::<_, std::io::Error>(*piece)).collect();
        Body::from_stream(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_cap() {
        let body = pieces(&["ab", "", "c", "d"]);
        assert_eq!(read_stream(body, 0, 4).await.unwrap(), "abcd");
        let over = read_stream(pieces(&["ab", "cde"]), 0, 4).await;
        assert!(matches!(over, Err(ApiError::TooLarge { bytes_max: 4, .. })));
        assert_eq!(read_stream(Body::empty(), 0, 4).await.unwrap(), "");
    }

    #[tokio::test]
    async fn declared_length_over_the_cap_is_refused_and_one_that_lies_gains_nothing() {
        let over = read_stream(pieces(&["abcde"]), 5, 4).await;
        assert!(matches!(over, Err(ApiError::TooLarge { .. })));
        let lie = read_stream(pieces(&["abcde"]), 2, 4).await;
        assert!(matches!(lie, Err(ApiError::TooLarge { .. })));
    }
}
