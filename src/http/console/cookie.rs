//! The cookies of sessions: of the console, and of the portal.
//!
//! Over https their names begin with `__Host-`, so that no other host and no plain connection can set them. Over plain http
//! there is a session on this machine alone: elsewhere everybody on the way could read the cookie. The portal has a cookie
//! of its own, so that whoever tries it out stays signed in to the console. Browsers keep it where a page of another site
//! shows the portal in a frame, apart for each such site.

use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};

use crate::auth::SessionToken;
use crate::domain::SessionKind;
pub(super) use crate::http::transport::Transport;

/// The cookies read at most: browsers send no more to one host.
const COOKIES_MAX: usize = 200;

/// Which cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SessionCookie {
    /// Of the portal. It comes first: whoever has just opened the portal sees it.
    Portal,
    /// Of the console.
    Console,
}

impl SessionCookie {
    /// Both, in the order in which they are looked at.
    pub(super) const ALL: [Self; 2] = [Self::Portal, Self::Console];

    /// The cookie of a session.
    pub(super) const fn of(kind: SessionKind) -> Self {
        match kind {
            SessionKind::Portal | SessionKind::PortalLink => Self::Portal,
            SessionKind::Console | SessionKind::Link => Self::Console,
        }
    }

    /// Its name; `None` where there is none.
    const fn name(self, transport: Transport) -> Option<&'static str> {
        match (self, transport) {
            (Self::Console, Transport::Secure) => Some("__Host-hookgate"),
            (Self::Console, Transport::Loopback) => Some("hookgate_console"),
            (Self::Portal, Transport::Secure) => Some("__Host-hookgate-portal"),
            (Self::Portal, Transport::Loopback) => Some("hookgate_portal"),
            (_, Transport::Plain) => None,
        }
    }

    /// The token in the cookie of a request.
    pub(super) fn token(self, transport: Transport, headers: &HeaderMap) -> Option<SessionToken> {
        let name = self.name(transport)?;
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let cookies = lines.flat_map(|line| line.split(';')).take(COOKIES_MAX);
        let named = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        let mut own = named.filter(|(found, _)| *found == name);
        own.find_map(|(_, value)| SessionToken::parse(value))
    }

    /// The value of `Set-Cookie` that keeps a token for so long; `is_framed` if pages of other sites show it.
    pub(super) fn keep(
        self,
        transport: Transport,
        token: &SessionToken,
        lasts: Duration,
        is_framed: bool,
    ) -> Option<HeaderValue> {
        self.set(transport, token.reveal(), lasts.as_secs(), is_framed)
    }

    /// The values of `Set-Cookie` that drop it: browsers keep one that is for frames apart.
    pub(super) fn forget(self, transport: Transport) -> Vec<HeaderValue> {
        let ways: &[bool] = if self == Self::Portal { &[false, true] } else { &[false] };
        ways.iter().filter_map(|is_framed| self.set(transport, "", 0, *is_framed)).collect()
    }

    fn set(
        self,
        transport: Transport,
        value: &str,
        max_age: u64,
        is_framed: bool,
    ) -> Option<HeaderValue> {
        let name = self.name(transport)?;
        // Browsers take Secure from their own machine over plain http, too, and SameSite=None with it alone.
        let scope = match (is_framed, transport) {
            (true, _) => "SameSite=None; Secure; Partitioned",
            (false, Transport::Secure) => "SameSite=Strict; Secure",
            (false, _) => "SameSite=Strict",
        };
        let text = format!("{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; {scope}");
        HeaderValue::try_from(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn cookie_is_read_by_the_name_of_its_transport() {
        let token = "A".repeat(43);
        let line = format!("a=b; hookgate_console={token}; __Host-hookgate=short");
        let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(line).unwrap())]);
        let console = SessionCookie::Console;
        assert_eq!(console.token(Transport::Loopback, &headers).unwrap().reveal(), token);
        assert!(console.token(Transport::Secure, &headers).is_none());
        assert!(console.token(Transport::Plain, &headers).is_none());
        assert!(SessionCookie::Portal.token(Transport::Loopback, &headers).is_none());
    }

    #[test]
    fn cookies_of_https_belong_to_one_host() {
        let token = SessionToken::parse(&"A".repeat(43)).unwrap();
        let set = SessionCookie::Console.keep(Transport::Secure, &token, HOUR, false).unwrap();
        let set = set.to_str().unwrap();
        assert!(set.starts_with("__Host-hookgate=AAA"), "{set}");
        assert!(
            set.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict; Secure"),
            "{set}"
        );
        assert!(SessionCookie::Console.keep(Transport::Plain, &token, HOUR, false).is_none());
        let framed = SessionCookie::Portal.keep(Transport::Secure, &token, HOUR, true).unwrap();
        let framed = framed.to_str().unwrap();
        assert!(framed.starts_with("__Host-hookgate-portal="), "{framed}");
        assert!(framed.ends_with("HttpOnly; SameSite=None; Secure; Partitioned"), "{framed}");
    }
}
