//! Bodies: declared as JSON, read whole, and never beyond a cap.

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderValue};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::error::ApiError;

/// Bytes of a body over its cap that are read and dropped before it is refused. A client that sends
/// everything before it listens would otherwise meet a closed connection instead of the answer.
const OVERFLOW_BYTES_MAX: usize = 1024 * 1024;

/// Checks that the body is declared as `application/json`, or as a type built on it (`+json`).
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
        // What nearly every client sends.
        Some(b"application/json") => Ok(()),
        Some(other) if is_json(other) => Ok(()),
        Some(_) | None => Err(ApiError::UnsupportedMediaType),
    }
}

/// Reads the body of at most `bytes_max` bytes.
pub(super) async fn read(request: Request, bytes_max: usize) -> Result<Bytes, ApiError> {
    let declared = declared_length(request.headers());
    // Who asks before sending has sent nothing that would have to be dropped.
    if declared > bytes_max && request.headers().contains_key(EXPECT) {
        return Err(ApiError::TooLarge { what: "the body", bytes_max });
    }
    read_stream(request.into_body(), declared, bytes_max).await
}

async fn read_stream(body: Body, declared: usize, bytes_max: usize) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    if declared > bytes_max {
        return Err(refuse(chunks, bytes_max).await);
    }
    let Some(first) = next(&mut chunks).await? else {
        return Ok(Bytes::new());
    };
    // Small bodies come in one piece, which is taken as it is.
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

/// Drops a little of what still comes, and says why.
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

/// The declared length in bytes; 0 when there is none, as for a chunked body.
fn declared_length(headers: &HeaderMap) -> usize {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    length.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn is_json(media_type: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(media_type) else {
        return false;
    };
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.strip_prefix("application/") {
        Some("json") => true,
        Some(subtype) => subtype.len() > "+json".len() && subtype.ends_with("+json"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn media_type(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())])
    }

    #[test]
    fn json_and_what_is_built_on_it_is_taken() {
        for good in [
            "application/json",
            "application/json; charset=utf-8",
            "Application/JSON",
            "application/cloudevents+json",
        ] {
            assert!(require_json(&media_type(good)).is_ok(), "{good}");
        }
        for bad in ["", "text/plain", "text/json", "application/+json", "application/jsonp", "json"]
        {
            assert!(require_json(&media_type(bad)).is_err(), "{bad}");
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
    async fn a_declared_length_over_the_cap_is_refused_and_one_that_lies_gains_nothing() {
        let over = read_stream(pieces(&["abcde"]), 5, 4).await;
        assert!(matches!(over, Err(ApiError::TooLarge { .. })));
        let lie = read_stream(pieces(&["abcde"]), 2, 4).await;
        assert!(matches!(lie, Err(ApiError::TooLarge { .. })));
    }
}
