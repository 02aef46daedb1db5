//! The cookie of a session, and where one may be set.
//!
//! Over https its name begins with `__Host-`, so that no other host and no plain connection can set it. Over plain http
//! there is a session on this machine alone: elsewhere everybody on the way could read the cookie.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::header::{COOKIE, HOST};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::auth::SessionToken;
use crate::domain::ConsoleSession;
use crate::http::client_ip;
use crate::http::state::AppState;

const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The cookies read at most: browsers send no more to one host.
const COOKIES_MAX: usize = 200;

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

    /// The name of the cookie; `None` where there is none.
    const fn cookie(self) -> Option<&'static str> {
        match self {
            Self::Secure => Some("__Host-hookgate"),
            Self::Loopback => Some("hookgate_console"),
            Self::Plain => None,
        }
    }

    /// The token in the cookie of a request.
    pub(super) fn token(self, headers: &HeaderMap) -> Option<SessionToken> {
        let name = self.cookie()?;
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let cookies = lines.flat_map(|line| line.split(';')).take(COOKIES_MAX);
        let named = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        let mut own = named.filter(|(found, _)| *found == name);
        own.find_map(|(_, value)| SessionToken::parse(value))
    }

    /// The value of `Set-Cookie` that keeps a token.
    pub(super) fn keep(self, token: &SessionToken) -> Option<HeaderValue> {
        self.set(token.reveal(), ConsoleSession::LASTS.as_secs())
    }

    /// The value of `Set-Cookie` that drops it.
    pub(super) fn forget(self) -> Option<HeaderValue> {
        self.set("", 0)
    }

    fn set(self, value: &str, max_age: u64) -> Option<HeaderValue> {
        let name = self.cookie()?;
        let secure = if self == Self::Secure { "; Secure" } else { "" };
        let text =
            format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Strict{secure}");
        HeaderValue::try_from(text).ok()
    }
}

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

    #[test]
    fn cookie_is_read_by_the_name_of_its_transport() {
        let token = "A".repeat(43);
        let line = format!("a=b; hookgate_console={token}; __Host-hookgate=short");
        let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(line).unwrap())]);
        assert_eq!(Transport::Loopback.token(&headers).unwrap().reveal(), token);
        assert!(Transport::Secure.token(&headers).is_none());
        assert!(Transport::Plain.token(&headers).is_none());
    }

    #[test]
    fn cookies_of_https_belong_to_one_host() {
        let token = SessionToken::parse(&"A".repeat(43)).unwrap();
        let set = Transport::Secure.keep(&token).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.starts_with("__Host-hookgate=AAA"), "{set}");
        assert!(
            set.ends_with("; Path=/; Max-Age=604800; HttpOnly; SameSite=Strict; Secure"),
            "{set}"
        );
        assert!(Transport::Plain.keep(&token).is_none());
    }
}
