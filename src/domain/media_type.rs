//! Media types of request bodies: JSON, newline-delimited JSON, or anything else.

/// The media type of a request body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MediaType {
    /// `application/json`, or a type built on it (`+json`, RFC 6839).
    Json,
    /// `application/x-ndjson` and what else senders call it: one JSON text per line,
    /// <https://github.com/ndjson/ndjson-spec>.
    NdJson,
    /// Anything else, also text that is not a media type.
    Other,
}

/// The names of newline-delimited JSON.
const LINES: [&str; 3] = ["application/x-ndjson", "application/ndjson", "application/jsonl"];

impl MediaType {
    /// The media type of a `Content-Type` header. Parameters such as `charset` are ignored: JSON is UTF-8
    /// (RFC 8259, section 8.1), and anything else fails to parse.
    pub fn of(content_type: &[u8]) -> Self {
        // What nearly every client sends.
        if content_type == b"application/json" {
            return Self::Json;
        }
        let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") || is_built_on_json(essence) {
            Self::Json
        } else if LINES.iter().any(|name| essence.eq_ignore_ascii_case(name.as_bytes())) {
            Self::NdJson
        } else {
            Self::Other
        }
    }
}

fn is_built_on_json(essence: &[u8]) -> bool {
    const SUFFIX: &[u8] = b"+json";
    let Some(slash) = essence.iter().position(|byte| *byte == b'/') else {
        return false;
    };
    let (kind, subtype) = (&essence[..slash], &essence[slash + 1..]);
    let suffix = subtype.len().checked_sub(SUFFIX.len()).map(|start| &subtype[start..]);
    !kind.is_empty()
        && subtype.len() > SUFFIX.len()
        && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(SUFFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_recognised_regardless_of_case_and_parameters() {
        let cases = [
            ("application/json", MediaType::Json),
            ("application/json; charset=utf-8", MediaType::Json),
            ("Application/JSON ;x", MediaType::Json),
            ("application/cloudevents+json", MediaType::Json),
            ("model/gltf+JSON", MediaType::Json),
            ("application/x-ndjson", MediaType::NdJson),
            (" Application/X-NDJSON; charset=utf-8", MediaType::NdJson),
            ("application/ndjson", MediaType::NdJson),
            ("application/jsonl; charset=utf-8", MediaType::NdJson),
        ];
        for (text, expected) in cases {
            assert_eq!(MediaType::of(text.as_bytes()), expected, "{text}");
        }
        for text in [
            "",
            ";",
            "text/plain",
            "text/json",
            "application/+json",
            "/x+json",
            "application/jsonp",
            "json",
            "+json",
            "application/x-ndjsons",
        ] {
            assert_eq!(MediaType::of(text.as_bytes()), MediaType::Other, "{text}");
        }
        assert_eq!(MediaType::of(b"\xff/\xff"), MediaType::Other);
    }
}
