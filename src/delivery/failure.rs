//! Why an attempt failed: its error class for scripts and dashboards, and a text for people.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use reqwest::StatusCode;
use rustix::io::Errno;

use crate::domain::ErrorClass;

use super::resolver::{HostUnknown, LookupError};
use super::ssrf_guard::SsrfRefusal;
use super::webhook::HeadersError;

/// Maximum bytes of an error text.
const ERROR_BYTES_MAX: usize = 256;

/// Why an attempt failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) class: ErrorClass,
    /// Free text for the tenant, at most 256 bytes.
    pub(super) text: String,
}

impl Failure {
    /// A response status other than 2xx.
    pub(super) fn status(status: StatusCode) -> Self {
        let redirect = if status.is_redirection() { "; redirects are not followed" } else { "" };
        // A status without a canonical reason displays a placeholder.
        let reason = status.canonical_reason().map(|reason| format!(" {reason}"));
        let (code, reason) = (status.as_u16(), reason.unwrap_or_default());
        Self::new(ErrorClass::Status, &format!("the receiver answered {code}{reason}{redirect}"))
    }

    /// No response. `connect_timeout` and `timeout` are the client's.
    pub(super) fn request(
        error: &reqwest::Error,
        connect_timeout: Duration,
        timeout: Duration,
    ) -> Self {
        if let Some(refusal) = find::<SsrfRefusal>(error) {
            return (*refusal).into();
        }
        let class = classify(error);
        let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
        let text = match class {
            ErrorClass::Timeout if error.is_connect() => {
                format!("no connection within {}", humantime::format_duration(connect_timeout))
            }
            ErrorClass::Timeout => return Self::no_response(timeout),
            ErrorClass::Dns => format!("cannot resolve the host: {cause}"),
            ErrorClass::Tls => format!("cannot set up TLS: {cause}"),
            ErrorClass::Connect => format!("cannot connect: {cause}"),
            ErrorClass::Protocol => format!("the response is not valid HTTP: {cause}"),
            ErrorClass::Reset
            | ErrorClass::Blocked
            | ErrorClass::Signing
            | ErrorClass::Internal
            | ErrorClass::Status => format!("the connection was closed before a response: {cause}"),
        };
        Self::new(class, &text)
    }

    /// No response within `timeout`.
    pub(super) fn no_response(timeout: Duration) -> Self {
        let text = format!("no response within {}", humantime::format_duration(timeout));
        Self::new(ErrorClass::Timeout, &text)
    }

    /// The receiver allowed no stream, neither for this webhook nor for others, for so long.
    pub(super) fn no_stream(waited: Duration) -> Self {
        let waited = humantime::format_duration(Duration::from_millis(millis(waited)));
        Self::new(ErrorClass::Timeout, &format!("no HTTP/2 stream allowed within {waited}"))
    }

    /// Whether an HTTP/2 receiver says that it has not processed the request (RFC 9113 section 8.7): by a GOAWAY that
    /// names a lower stream, or by refusing the stream. The streams that a GOAWAY covers end with other errors.
    pub(super) fn is_refused(error: &reqwest::Error) -> bool {
        find::<h2::Error>(error).is_some_and(|error| {
            let is_refusal = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            error.is_remote() && (error.is_go_away() || error.is_reset() && is_refusal)
        })
    }

    /// Whether an HTTP/2 connection, or a stream on it, has failed.
    pub(super) fn is_http2(error: &reqwest::Error) -> bool {
        find::<h2::Error>(error).is_some()
    }

    /// Whether the connection ended while the request waited to be sent.
    pub(super) fn is_unsent(error: &reqwest::Error) -> bool {
        // The request that was about to get a stream ends as a user's error ("dispatch task is gone").
        find::<hyper::Error>(error).is_some_and(|error| error.is_canceled() || error.is_user())
    }

    /// Whether the client needs the addresses of the host. Nothing was sent.
    pub(super) fn is_host_unknown(error: &reqwest::Error) -> bool {
        find::<HostUnknown>(error).is_some()
    }

    /// The client does not take the addresses that the host was looked up to.
    pub(super) fn unresolved() -> Self {
        Self::new(ErrorClass::Internal, "internal error while resolving the host")
    }

    /// The attempt panicked.
    pub(super) fn panicked() -> Self {
        Self::new(ErrorClass::Internal, "internal error while sending; see the server's log")
    }

    fn new(class: ErrorClass, text: &str) -> Self {
        Self { class, text: tidy(text, ERROR_BYTES_MAX) }
    }
}

impl From<SsrfRefusal> for Failure {
    fn from(refusal: SsrfRefusal) -> Self {
        let class = match refusal {
            SsrfRefusal::Scheme | SsrfRefusal::Address => ErrorClass::Blocked,
            SsrfRefusal::NoAddress => ErrorClass::Dns,
        };
        Self::new(class, &refusal.to_string())
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        Self::new(ErrorClass::Dns, &format!("cannot resolve the host: {error}"))
    }
}

impl From<HeadersError> for Failure {
    fn from(error: HeadersError) -> Self {
        Self::new(ErrorClass::Signing, &error.to_string())
    }
}

/// Text that every store accepts (PostgreSQL rejects NUL), cut to at most `bytes_max` bytes.
pub(super) fn tidy(text: &str, bytes_max: usize) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn classify(error: &reqwest::Error) -> ErrorClass {
    let not_http = find(error).is_some_and(hyper::Error::is_parse);
    let ended = find(error).is_some_and(is_end);
    if error.is_dns() {
        ErrorClass::Dns
    } else if find::<rustls::Error>(error).is_some() {
        ErrorClass::Tls
    } else if error.is_timeout() {
        ErrorClass::Timeout
    } else if error.is_connect() {
        // A connection that was established and then closed was closed in the TLS handshake.
        if ended { ErrorClass::Tls } else { ErrorClass::Connect }
    } else if not_http {
        ErrorClass::Protocol
    } else {
        ErrorClass::Reset
    }
}

/// Whether no connection could be made because this process or the system has no file descriptor or no memory left.
pub(super) fn is_shortage(error: &reqwest::Error) -> bool {
    let errno = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    let code = find::<io::Error>(error).and_then(io::Error::raw_os_error);
    error.is_connect() && code.is_some_and(|code| errno.contains(&code))
}

fn is_end(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// The innermost cause of this type.
fn find<E: Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    causes(error).filter_map(|cause| cause.downcast_ref()).last()
}

/// The causes of an error, the innermost last. The error itself is left out: it names the URL, whose query
/// may carry a secret of the receiver.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        // An I/O error's `source` skips the error that it wraps.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
        Some(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_has_no_nul() {
        assert_eq!(tidy("a\0b", 10), "a\u{fffd}b");
        assert_eq!(tidy("aüü", 4), "aü");
        assert_eq!(tidy("short", 10), "short");
    }

    #[test]
    fn status_is_explained_in_words() {
        let explained = |code| Failure::status(StatusCode::from_u16(code).unwrap()).text;
        assert_eq!(explained(500), "the receiver answered 500 Internal Server Error");
        assert_eq!(
            explained(307),
            "the receiver answered 307 Temporary Redirect; redirects are not followed"
        );
        assert_eq!(explained(599), "the receiver answered 599");
    }

    #[test]
    fn guard_refusal_is_blocked_and_a_name_without_addresses_is_a_dns_failure() {
        for (refusal, class) in [
            (SsrfRefusal::Scheme, ErrorClass::Blocked),
            (SsrfRefusal::Address, ErrorClass::Blocked),
            (SsrfRefusal::NoAddress, ErrorClass::Dns),
        ] {
            assert_eq!(Failure::from(refusal).class, class);
        }
    }
}
