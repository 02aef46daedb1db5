//! Errors of attempts in words: what happened, and what to do about it.

use crate::domain::{DeadReason, DeliveryStatus, ErrorClass, HeldBy};

/// What happened, and what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Explained {
    pub(super) what: &'static str,
    pub(super) remedy: &'static str,
}

/// The explanation of a failed attempt.
pub(super) fn attempt(class: ErrorClass, status: Option<u16>) -> Explained {
    let (what, remedy) = match class {
        ErrorClass::Blocked => (
            "The host leads to an address that webhooks may not be sent to, such as one of a private network.",
            "Use a public address. Who operates this server can allow private networks for tests.",
        ),
        ErrorClass::Signing => (
            "The webhook could not be signed, since the secret cannot be read.",
            "Rotate the secret with an overlap of 0 seconds, or tell who operates this server.",
        ),
        ErrorClass::Internal => (
            "The server failed before it could send.",
            "Retry. If it happens again, tell who operates this server.",
        ),
        ErrorClass::Dns => (
            "The name of the host has no address.",
            "Check the host in the URL for a typing error, and that its DNS record is there.",
        ),
        ErrorClass::Connect => (
            "Nothing accepted the connection.",
            "Check that the receiver runs, listens on this port, and that no firewall is in between.",
        ),
        ErrorClass::Tls => (
            "The receiver's certificate was not accepted.",
            "Check that it is valid, not expired, for this host, and sent with its intermediate certificates.",
        ),
        ErrorClass::Timeout => (
            "The receiver did not answer in time.",
            "Answer at once and do the work afterwards, for example from a queue.",
        ),
        ErrorClass::Reset => (
            "The receiver closed the connection before it answered.",
            "Look into the receiver's log: it may have crashed, or a proxy in front of it has ended the request.",
        ),
        ErrorClass::Protocol => (
            "The answer was not valid HTTP.",
            "Check that the port of the URL speaks HTTP, and https if the URL says so.",
        ),
        ErrorClass::Status => return answer(status.unwrap_or_default()),
    };
    Explained { what, remedy }
}

/// The explanation of an answer that is no success.
fn answer(status: u16) -> Explained {
    let (what, remedy) = match status {
        300..400 => (
            "The receiver answered with a redirect, which webhooks do not follow.",
            "Set the endpoint's URL to where it leads.",
        ),
        400 | 422 => (
            "The receiver did not accept the webhook's content.",
            "Compare the payload with what the receiver expects; its answer below may say more.",
        ),
        401 | 403 => (
            "The receiver refused the webhook as not authorised.",
            "Check that it verifies with the endpoint's current secret and a clock that is right, or the custom \
             header it asks for.",
        ),
        404 => ("The receiver has nothing at this path.", "Check the path in the endpoint's URL."),
        405 => ("The receiver does not take POST at this path.", "Have it accept POST."),
        410 => (
            "The receiver wants no more webhooks: 410 disables the endpoint.",
            "Enable the endpoint once the receiver is back.",
        ),
        413 => (
            "The payload is larger than the receiver accepts.",
            "Raise the receiver's limit on bodies, or send smaller events.",
        ),
        429 => (
            "The receiver gets too many webhooks.",
            "Set a rate limit for the endpoint below what the receiver accepts.",
        ),
        502..=504 => (
            "A proxy in front of the receiver did not reach it, or not in time.",
            "Check that the receiver runs and answers quickly.",
        ),
        500.. => (
            "The receiver failed while it handled the webhook.",
            "Look into the receiver's log at this time.",
        ),
        _ => (
            "The receiver did not answer with a success, a status of 2xx.",
            "Have it answer 2xx once it has accepted the webhook.",
        ),
    };
    Explained { what, remedy }
}

/// What a delivery in this state waits for, or why it ended.
pub(super) fn state(status: DeliveryStatus, held_by: Option<HeldBy>) -> &'static str {
    match (status, held_by) {
        (DeliveryStatus::Pending, Some(HeldBy::Disabled)) => {
            "It waits, since its endpoint is disabled. Enable the endpoint and it is sent."
        }
        (DeliveryStatus::Pending, Some(HeldBy::InFlight)) => "An attempt is in flight.",
        (DeliveryStatus::Pending, Some(HeldBy::Paused)) => {
            "It waits, since its endpoint keeps failing and is paused for a while. A retry is sent at once."
        }
        (DeliveryStatus::Pending, Some(HeldBy::Unreadable)) => {
            "It waits, since its endpoint cannot be read from the database. The operators of this server are told."
        }
        (DeliveryStatus::Pending, None) => "It waits for its next attempt.",
        (DeliveryStatus::Delivered, _) => "The receiver took it.",
        (DeliveryStatus::Dead, _) => "It was given up. Replay it once the receiver is well.",
        (DeliveryStatus::Cancelled, _) => "It was cancelled before the receiver took it.",
    }
}

/// Why a dead letter is one.
pub(super) fn dead(reason: &str) -> &'static str {
    match reason.parse() {
        Ok(DeadReason::Exhausted) => "Every attempt of the retry schedule failed.",
        Ok(DeadReason::Gone) => "The receiver answered 410 Gone, and its endpoint was disabled.",
        Ok(DeadReason::Unstorable) => "The database rejected the event's content.",
        Ok(DeadReason::Expired) => "The event became older than it is kept.",
        Err(_) => "It was given up.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_words_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for class in ErrorClass::ALL {
            assert!(seen.insert(attempt(*class, Some(500)).what), "{class}");
        }
        for status in [302, 400, 401, 404, 405, 410, 413, 418, 429, 502] {
            assert!(seen.insert(answer(status).what), "{status}");
        }
    }
}
