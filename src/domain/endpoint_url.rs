//! The URL of an endpoint: which ones it may have, and how they are shown.

use url::Url;

use super::endpoint::Endpoint;
use super::{EndpointKind, Violation};

impl Endpoint {
    /// Parses a URL and checks its text: an absolute `https` URL (`http` only if private endpoints are
    /// allowed), with a host, without a user name, password, fragment or port 0. The SSRF guard of `delivery`
    /// checks its address.
    pub fn parse_url(text: &str, allow_http: bool) -> Result<Url, Violation> {
        let broken = |code, message: &str| Err(Violation::new("url", code, message));
        if text.len() > Self::URL_BYTES_MAX {
            return broken("length", "must be at most 2048 bytes");
        }
        let Ok(url) = Url::parse(text) else {
            return broken("format", "must be an absolute URL such as https://example.com/hooks");
        };
        match url.scheme() {
            "https" => {}
            "http" if allow_http => {}
            "http" => {
                return broken("scheme", "must be https; http needs ALLOW_PRIVATE_ENDPOINTS=true");
            }
            _ => return broken("scheme", "must be https"),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return broken("format", "must name a host");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return broken("format", "must not carry a user name or password");
        }
        if url.port() == Some(0) {
            return broken("port", "must not name port 0, which nothing can listen on");
        }
        if url.fragment().is_some() {
            return broken("format", "must not carry a fragment");
        }
        if text.ends_with(Self::SHOWN_QUERY) {
            let rule = "must not be the masked URL that readers are shown; leave it out, or give its query";
            return broken("masked", rule);
        }
        Ok(url)
    }

    /// What is shown in place of a query.
    const SHOWN_QUERY: &str = "?…";

    /// A URL as those read it who may not manage endpoints: without the values of its query, which may be secrets.
    pub fn shown_url(url: &str) -> String {
        url.split_once('?')
            .map_or_else(|| url.to_owned(), |(before, _)| format!("{before}{}", Self::SHOWN_QUERY))
    }

    /// The URL of a webhook, as [`Self::shown_url`] shows it; `None` for an inbox.
    pub fn shown_destination(url: &str) -> Option<String> {
        (url != EndpointKind::NO_URL).then(|| Self::shown_url(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_of_a_url_is_not_shown() {
        let shown = Endpoint::shown_url("https://example.com/hook?token=s3cret&x=1");
        assert_eq!(shown, "https://example.com/hook?…");
        assert_eq!(Endpoint::shown_url("https://example.com/"), "https://example.com/");
        assert_eq!(Endpoint::shown_destination(EndpointKind::NO_URL), None);
    }

    #[test]
    fn masked_url_is_not_taken_for_one() {
        let shown = Endpoint::shown_url("https://example.com/hooks?token=1");
        assert_eq!(Endpoint::parse_url(&shown, false).unwrap_err().code, "masked");
    }

    #[test]
    fn urls_must_be_https_without_credentials() {
        assert!(Endpoint::parse_url("https://example.com/hook?x=1", false).is_ok());
        assert!(Endpoint::parse_url("http://127.0.0.1:9000/", true).is_ok());
        let refused = [
            "http://example.com",
            "ftp://example.com",
            "example.com",
            "/hook",
            "https://user@example.com",
            "https://example.com/#top",
        ];
        for url in refused {
            assert!(Endpoint::parse_url(url, false).is_err(), "{url}");
        }
    }
}
