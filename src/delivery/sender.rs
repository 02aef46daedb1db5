//! Sends one webhook and reads the answer, as far as anybody wants it.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode};

use crate::domain::{LeasedDelivery, Timestamp};

use super::guard::{Guard, GuardedResolver, Refusal};
use super::retry::{Reply, is_success};
use super::webhook;

/// Bytes of an answer that are kept.
const EXCERPT_BYTES_MAX: usize = 1024;
/// Bytes of an answer that are read, so that its connection can be used again. A longer answer costs
/// less to cut off, connection and all, than to read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an error text that are kept.
const ERROR_BYTES_MAX: usize = 256;
/// An idle connection is closed after this: many receivers close theirs after a minute, and a request
/// on a connection that is just being closed costs a second one.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);

/// Sends webhooks. Clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    client: Client,
    guard: Guard,
    timeout: Duration,
}

/// What came of sending.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status; `None` when there was no answer.
    pub(super) status: Option<u16>,
    /// Why it failed, in words for the tenant; `None` when it succeeded.
    pub(super) error: Option<String>,
    /// The start of the answer's body; `None` when that was empty or was not read.
    pub(super) excerpt: Option<String>,
    retry_after: Option<String>,
}

impl Answer {
    /// What the decision about the next attempt is taken from.
    pub(super) fn reply(&self) -> Reply<'_> {
        Reply { status: self.status, retry_after: self.retry_after.as_deref() }
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Headers(#[from] webhook::HeadersError),
    #[error("{}", describe(.0))]
    Request(#[from] reqwest::Error),
}

impl Sender {
    /// A sender whose every attempt ends within `timeout`, keeping up to `idle_per_host` connections
    /// open to one host.
    ///
    /// # Errors
    /// When TLS cannot be set up, say because the system has no root certificates.
    pub(super) fn new(
        guard: Guard,
        timeout: Duration,
        idle_per_host: usize,
    ) -> Result<Self, reqwest::Error> {
        // Fails when another part, or another instance in a test, was here before: just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .dns_resolver(GuardedResolver::new(guard))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .timeout(timeout)
            .pool_max_idle_per_host(idle_per_host)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .build()?;
        Ok(Self { client, guard, timeout })
    }

    /// Makes one attempt, which counts as started at `at`.
    pub(super) async fn send(&self, delivery: &LeasedDelivery, at: Timestamp) -> Answer {
        match self.request(delivery, at).await {
            Ok(response) => read(response).await,
            Err(failure) => {
                if let Failure::Headers(error) = &failure {
                    let (org, endpoint) = (delivery.endpoint.org_id, delivery.endpoint.id);
                    tracing::error!(%org, %endpoint, %error, "a webhook cannot be signed");
                }
                let error = match &failure {
                    Failure::Request(error) if is_timeout(error) => {
                        format!("no answer within {}", humantime::format_duration(self.timeout))
                    }
                    other => other.to_string(),
                };
                let error = Some(tidy(error, ERROR_BYTES_MAX));
                Answer { status: None, error, excerpt: None, retry_after: None }
            }
        }
    }

    async fn request(&self, delivery: &LeasedDelivery, at: Timestamp) -> Result<Response, Failure> {
        let url = &delivery.endpoint.url;
        self.guard.check_url(url)?;
        let body = webhook::body(&delivery.event);
        let mut request = Request::new(Method::POST, url.clone());
        *request.headers_mut() = webhook::headers(delivery, at, &body)?;
        *request.body_mut() = Some(body.into());
        Ok(self.client.execute(request).await?)
    }
}

async fn read(response: Response) -> Answer {
    let status = response.status();
    let code = status.as_u16();
    let error = (!is_success(code)).then(|| explain(status));
    let retry_after = retry_after(response.headers());
    Answer { status: Some(code), error, excerpt: excerpt(response).await, retry_after }
}

fn retry_after(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(RETRY_AFTER)?.to_str().ok()?.to_owned())
}

fn explain(status: StatusCode) -> String {
    let redirect = if status.is_redirection() { "; redirects are not followed" } else { "" };
    // A status without a reason of its own displays a placeholder.
    match status.canonical_reason() {
        Some(reason) => format!("the receiver answered {} {reason}{redirect}", status.as_u16()),
        None => format!("the receiver answered {}{redirect}", status.as_u16()),
    }
}

/// Reads the answer and keeps its start. The status has decided already, so an answer that breaks off,
/// or drips until the timeout, takes nothing back.
async fn excerpt(mut response: Response) -> Option<String> {
    let mut kept = Vec::new();
    let mut bytes_read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = EXCERPT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        bytes_read += chunk.len();
        if bytes_read >= ANSWER_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&kept).into_owned();
    (!text.is_empty()).then(|| tidy(text, EXCERPT_BYTES_MAX))
}

/// Text that every store takes, which NUL is not in PostgreSQL, of at most `bytes_max` bytes.
fn tidy(mut text: String, bytes_max: usize) -> String {
    if text.contains('\0') {
        text = text.replace('\0', "\u{fffd}");
    }
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// Timeouts of the attempt as a whole, and of connecting, which the system may give up sooner.
fn is_timeout(error: &reqwest::Error) -> bool {
    error.is_timeout() && find::<Refusal>(error).is_none()
}

/// Says what went wrong in the words of the innermost cause, without the URL, whose query may carry
/// a secret of the receiver.
fn describe(error: &reqwest::Error) -> String {
    if let Some(refusal) = find::<Refusal>(error) {
        return refusal.to_string();
    }
    let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
    let what = if error.is_connect() { "cannot connect" } else { "the exchange broke off" };
    format!("{what}: {cause}")
}

fn find<E: Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_freed_of_nul() {
        assert_eq!(tidy("a\0b".to_owned(), 10), "a\u{fffd}b");
        assert_eq!(tidy("aüü".to_owned(), 4), "aü");
        assert_eq!(tidy("short".to_owned(), 10), "short");
    }

    #[test]
    fn a_status_is_explained_in_words() {
        let explained = |code| explain(StatusCode::from_u16(code).unwrap());
        assert_eq!(explained(500), "the receiver answered 500 Internal Server Error");
        assert_eq!(
            explained(307),
            "the receiver answered 307 Temporary Redirect; redirects are not followed"
        );
        assert_eq!(explained(599), "the receiver answered 599");
    }
}
