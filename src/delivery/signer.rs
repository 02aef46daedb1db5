//! Signs webhooks and verifies signatures as specified by Standard Webhooks.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::Sha256;

use crate::domain::{Ed25519Secret, HmacSecret, PublicKey, SigningSecret};

const HMAC_SCHEME: &str = "v1,";
const ED25519_SCHEME: &str = "v1a,";
/// Maximum length of a signature: the scheme and the base64 of 64 bytes.
const SIGNATURE_BYTES_MAX: usize = ED25519_SCHEME.len() + 88;
/// The block of SHA-256, to which HMAC pads a shorter key with zeros (RFC 2104 section 2).
const BLOCK_BYTES: usize = 64;

/// One signature of the `webhook-signature` header, over `{webhook_id}.{timestamp}.{body}`: `v1,` and the
/// base64 of the HMAC-SHA256, or `v1a,` and the base64 of the Ed25519 signature. `timestamp` is in seconds
/// since the epoch.
pub fn sign(secret: &SigningSecret, webhook_id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut signature = String::with_capacity(SIGNATURE_BYTES_MAX);
    let content = [webhook_id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    match secret {
        SigningSecret::HmacSha256(secret) => {
            signature.push_str(HMAC_SCHEME);
            STANDARD.encode_string(hmac(secret, content), &mut signature);
        }
        SigningSecret::Ed25519(secret) => {
            signature.push_str(ED25519_SCHEME);
            STANDARD.encode_string(ed25519(secret, content), &mut signature);
        }
    }
    signature
}

/// The value of the `webhook-signature` header: one signature per secret, separated by spaces.
pub(super) fn sign_with_all<'a>(
    secrets: impl Iterator<Item = &'a SigningSecret>,
    webhook_id: &str,
    timestamp: &str,
    body: &[u8],
) -> String {
    let mut signatures = String::new();
    for secret in secrets {
        let signature = sign(secret, webhook_id, timestamp, body);
        if signatures.is_empty() {
            signatures = signature;
        } else {
            signatures.push(' ');
            signatures.push_str(&signature);
        }
    }
    signatures
}

/// The key schedule is computed each time. It costs two of at least seven hash blocks per webhook, less than
/// a cache look-up and its invalidation would.
fn hmac(secret: &HmacSecret, content: [&[u8]; 5]) -> impl AsRef<[u8]> + use<> {
    // A secret has at most 64 bytes, so padding it is enough and cannot fail.
    let mut block = [0; BLOCK_BYTES];
    for (padded, byte) in block.iter_mut().zip(secret.bytes()) {
        *padded = *byte;
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in content {
        mac.update(part);
    }
    mac.finalize().into_bytes()
}

/// Ed25519 hashes the message twice, so it needs one contiguous slice.
fn ed25519(secret: &Ed25519Secret, content: [&[u8]; 5]) -> impl AsRef<[u8]> + use<> {
    secret.key_pair().sign(&content.concat())
}

/// Verifies signatures as a receiver does, with the endpoint's secret or public key.
#[derive(Clone, Debug)]
pub enum Verifier {
    /// `whsec_…` or `whsk_…`: computes the signature and compares.
    Secret(SigningSecret),
    /// `whpk_…`
    PublicKey(PublicKey),
}

impl Verifier {
    /// Whether any signature of the `webhook-signature` header is valid.
    pub fn holds(&self, signatures: &str, webhook_id: &str, timestamp: &str, body: &[u8]) -> bool {
        match self {
            Self::Secret(secret) => {
                let expected = sign(secret, webhook_id, timestamp, body);
                signatures.split(' ').any(|signature| signature == expected)
            }
            Self::PublicKey(key) => {
                let key = UnparsedPublicKey::new(&ED25519, key.bytes());
                let content = [webhook_id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
                let content = content.concat();
                signatures
                    .split(' ')
                    .filter_map(|signature| signature.strip_prefix(ED25519_SCHEME))
                    .filter_map(|encoded| STANDARD.decode(encoded).ok())
                    .any(|signature| key.verify(&content, &signature).is_ok())
            }
        }
    }
}

impl FromStr for Verifier {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let secret = text.parse().map(Self::Secret).ok();
        secret
            .or_else(|| text.parse().map(Self::PublicKey).ok())
            .ok_or("must be the endpoint's secret (whsec_…) or its public key (whpk_…)")
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::SignatureScheme;

    #[test]
    fn signature_matches_the_example_of_the_standard() {
        let secret: SigningSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".parse().unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        let signature = sign(&secret, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", "1649367553", body);
        assert_eq!(signature, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
    }

    /// A known answer of the standard's Go library.
    #[test]
    fn signature_matches_the_example_of_the_go_library() {
        let secret = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=";
        let secret: SigningSecret = secret.parse().unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(
            signature,
            "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag=="
        );
        assert_eq!(signature.len(), SIGNATURE_BYTES_MAX);
    }

    #[test]
    fn one_valid_signature_of_several_is_enough() {
        let hmac = SigningSecret::generate().unwrap();
        let key = SigningSecret::generate_for(SignatureScheme::Ed25519).unwrap();
        let signatures = sign_with_all([&hmac, &key].into_iter(), "msg", "1", b"body");
        assert_eq!(signatures.split(' ').count(), 2);
        let public = key.public_key().unwrap();
        for verifier in [hmac.reveal(), key.reveal(), public.to_string()] {
            let verifier: Verifier = verifier.parse().unwrap();
            assert!(verifier.holds(&signatures, "msg", "1", b"body"));
            assert!(!verifier.holds(&signatures, "msg", "1", b"bode"));
            assert!(!verifier.holds(&signatures, "msg", "2", b"body"));
            assert!(!verifier.holds("v1,bm9uZQ== v1a,bm9uZQ== v1a,", "msg", "1", b"body"));
        }
        let other = SigningSecret::generate_for(SignatureScheme::Ed25519).unwrap();
        let other = Verifier::PublicKey(other.public_key().unwrap());
        assert!(!other.holds(&signatures, "msg", "1", b"body"));
        assert!("whpk_AAAA".parse::<Verifier>().is_err());
    }

    proptest! {
        #[test]
        fn signature_matches_the_public_library(
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
