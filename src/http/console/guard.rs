//! The guard against forged requests: a change must come from a page of this server.
//!
//! The browser says where a request comes from (`Origin`, `Sec-Fetch-Site`), and every form carries a token of its
//! session. The token is masked anew in each page, so that compression tells nothing of it.

use axum::http::header::ORIGIN;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::auth::SessionToken;
use crate::http::transport::host;

pub(super) const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Bytes of a token and of its mask.
const TOKEN_BYTES: usize = 32;

/// Whether a page of this server makes the request, as its browser says.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let site = headers.get(&SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin") {
        return false;
    }
    let origin = headers.get(ORIGIN).and_then(|origin| origin.to_str().ok());
    match (origin.map(|origin| origin.split_once("://")), host(headers)) {
        (Some(Some((_, origin))), Some(host)) => origin.eq_ignore_ascii_case(host),
        (Some(_), _) => false,
        (None, _) => site.is_some(),
    }
}

/// The token of the forms of a session, masked.
pub(super) fn token(session: &SessionToken) -> String {
    let mut bytes = [0; 2 * TOKEN_BYTES];
    let (mask, masked) = bytes.split_at_mut(TOKEN_BYTES);
    // Without a random source it is not masked, and as secret.
    let _ = getrandom::fill(mask);
    for ((byte, mask), secret) in masked.iter_mut().zip(mask).zip(secret(session)) {
        *byte = *mask ^ secret;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Whether a form has the token of its session.
pub(super) fn is_token(session: &SessionToken, text: &str) -> bool {
    let mut bytes = [0; 2 * TOKEN_BYTES];
    if URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) != Ok(bytes.len()) {
        return false;
    }
    let (mask, masked) = bytes.split_at(TOKEN_BYTES);
    let pairs = mask.iter().zip(masked).zip(secret(session));
    // Every byte is looked at, so that the time tells nothing.
    pairs.fold(0, |differs, ((mask, masked), secret)| differs | (mask ^ masked ^ secret)) == 0
}

fn secret(session: &SessionToken) -> [u8; TOKEN_BYTES] {
    session.derive("forms of the console")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(character: &str) -> SessionToken {
        SessionToken::parse(&character.repeat(43)).unwrap()
    }

    #[test]
    fn token_is_another_each_time_and_of_one_session() {
        let (one, other) = (session("A"), session("E"));
        let (first, second) = (token(&one), token(&one));
        assert_ne!(first, second);
        assert!(is_token(&one, &first) && is_token(&one, &second));
        assert!(!is_token(&other, &first) && !is_token(&one, "") && !is_token(&one, &first[1..]));
    }

    #[test]
    fn origin_must_be_the_host_that_was_asked() {
        let headers = |entries: &[(&'static str, &'static str)]| -> HeaderMap {
            let entry = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), value.parse().unwrap())
            };
            [("host", "a.example:3000")].iter().chain(entries).map(entry).collect()
        };
        assert!(is_same_origin(&headers(&[("origin", "http://a.example:3000")])));
        assert!(is_same_origin(&headers(&[("sec-fetch-site", "same-origin")])));
        for forged in [
            &[][..],
            &[("origin", "http://b.example")],
            &[("origin", "null")],
            &[("origin", "http://a.example")],
            &[("origin", "http://a.example:3000"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(!is_same_origin(&headers(forged)), "{forged:?}");
        }
    }
}
