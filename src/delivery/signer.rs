//! Signs webhooks as Standard Webhooks lays down, symmetric scheme `v1`.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::SigningSecret;

const SCHEME: &str = "v1,";
/// The scheme and the base64 of 32 bytes.
const SIGNATURE_BYTES: usize = SCHEME.len() + 44;
/// The block of SHA-256, to which HMAC pads a shorter key with zeros (RFC 2104 section 2).
const BLOCK_BYTES: usize = 64;

/// The value of `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over
/// `{webhook_id}.{timestamp}.{body}`. `timestamp` is in seconds since the epoch.
///
/// The key's schedule is computed anew each time: it is two blocks of hashing beside the five and
/// more of the smallest webhook, less than a cache would cost to look up and to keep right when a
/// secret changes.
pub fn sign(secret: &SigningSecret, webhook_id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = keyed(secret);
    mac.update(webhook_id.as_bytes());
    mac.update(b".");
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    let mut signature = String::with_capacity(SIGNATURE_BYTES);
    signature.push_str(SCHEME);
    STANDARD.encode_string(mac.finalize().into_bytes(), &mut signature);
    signature
}

fn keyed(secret: &SigningSecret) -> Hmac<Sha256> {
    // A secret has 64 bytes at the most, so that padding is all it takes and nothing can fail.
    let mut block = [0; BLOCK_BYTES];
    for (padded, byte) in block.iter_mut().zip(secret.bytes()) {
        *padded = *byte;
    }
    Hmac::new(&block.into())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_standard_is_reproduced() {
        let secret: SigningSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = sign(&secret, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", "1649367553", body);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
        assert_eq!(signature.len(), SIGNATURE_BYTES);
    }

    proptest! {
        #[test]
        fn the_public_library_signs_the_same(
            key in prop::collection::vec(any::<u8>(), 24..=64),
            id in "[a-z0-9-]{1,40}",
            timestamp in 0..4_000_000_000_i64,
            body in ".{0,300}",
        ) {
            let text = format!("whsec_{}", STANDARD.encode(&key));
            let theirs = standardwebhooks::Webhook::new(&text).unwrap();
            let theirs = theirs.sign(&id, timestamp, body.as_bytes()).unwrap();
            let secret: SigningSecret = text.parse().unwrap();
            prop_assert_eq!(sign(&secret, &id, &timestamp.to_string(), body.as_bytes()), theirs);
        }
    }
}
