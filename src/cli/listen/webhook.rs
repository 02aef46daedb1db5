//! A webhook as it was received, and what its signature says.

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde::Deserialize;

use crate::delivery::Verifier;
use crate::domain::Timestamp;

/// A webhook's timestamp may be this far from now: the tolerance of the Standard Webhooks libraries.
const TOLERANCE_SECONDS: u64 = 5 * 60;

/// A webhook.
#[derive(Clone)]
pub(super) struct IncomingWebhook {
    pub(super) received_at: Timestamp,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What is known of a webhook's signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Signature {
    /// There is no secret to check it with.
    Unchecked,
    /// It holds.
    Valid,
    /// It does not hold, for this reason.
    Invalid(String),
}

/// The fields of a body that are shown in its line.
#[derive(Deserialize, Default)]
struct Fields {
    r#type: Option<String>,
}

impl IncomingWebhook {
    /// The id of its event, if there is one.
    pub(super) fn id(&self) -> Option<&str> {
        self.headers.get("webhook-id")?.to_str().ok()
    }

    /// The type of its event, if the body names one.
    pub(super) fn event_type(&self) -> Option<String> {
        serde_json::from_slice::<Fields>(&self.body).unwrap_or_default().r#type
    }

    /// Checks the signature with the endpoint's secret or public key.
    pub(super) fn check(&self, verifier: Option<&Verifier>) -> Signature {
        let Some(verifier) = verifier else { return Signature::Unchecked };
        match self.verify(verifier) {
            Ok(()) => Signature::Valid,
            Err(why) => Signature::Invalid(why),
        }
    }

    /// Checks a webhook as a receiver must: the signature, and that it is recent.
    fn verify(&self, verifier: &Verifier) -> Result<(), String> {
        let header = |name: &str| {
            let value = self.headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| format!("no {name}"))
        };
        let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
        let signatures = header("webhook-signature")?;
        let sent: i64 = timestamp.parse().map_err(|_| "webhook-timestamp is not a number")?;
        if sent.abs_diff(self.received_at.seconds()) > TOLERANCE_SECONDS {
            return Err(
                "webhook-timestamp differs from the clock by more than five minutes".to_owned()
            );
        }
        if verifier.holds(signatures, id, timestamp, &self.body) {
            Ok(())
        } else {
            Err("it was made with another secret, or the body was changed".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::sign;
    use crate::domain::SigningSecret;

    fn signed(secret: &SigningSecret, at: i64, body: &'static [u8]) -> IncomingWebhook {
        let at = at.to_string();
        let signature = format!("v1,bm9uZQ== {}", sign(secret, "msg", &at, body));
        let headers =
            [("webhook-id", "msg"), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
        let headers = headers
            .into_iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<HeaderMap>();
        let received_at = Timestamp::from_micros(1_700_000_000_000_000);
        IncomingWebhook { received_at, headers, body: Bytes::from_static(body) }
    }

    #[test]
    fn only_recent_webhook_with_the_right_secret_is_valid() {
        let secret = SigningSecret::generate().unwrap();
        let other = SigningSecret::generate().unwrap();
        let webhook = signed(&secret, 1_700_000_299, b"body");
        let late = signed(&secret, 1_700_000_301, b"body");
        let changed = IncomingWebhook { body: Bytes::from_static(b"bode"), ..webhook.clone() };
        let bare = IncomingWebhook { headers: HeaderMap::new(), ..webhook.clone() };
        let (secret, other) = (Verifier::Secret(secret), Verifier::Secret(other));
        assert_eq!(webhook.check(Some(&secret)), Signature::Valid);
        assert_eq!(webhook.check(None), Signature::Unchecked);
        for (webhook, verifier) in [(&webhook, &other), (&changed, &secret), (&late, &secret)] {
            assert!(matches!(webhook.check(Some(verifier)), Signature::Invalid(_)));
        }
        let Signature::Invalid(why) = bare.check(Some(&secret)) else { panic!("it has none") };
        assert!(why.contains("webhook-id"), "{why}");
    }
}
