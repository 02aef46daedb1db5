//! Signing secrets of endpoints, in the formats of Standard Webhooks.
//!
//! <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519_PUBLIC_KEY_LEN, Ed25519KeyPair, KeyPair};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use strum::{EnumString, IntoStaticStr, VariantNames};

const HMAC_PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
/// An Ed25519 seed (RFC 8032 section 5.1.5).
const SEED_BYTES: usize = 32;

/// How webhooks are signed.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    JsonSchema,
    Serialize,
    EnumString,
    IntoStaticStr,
    VariantNames,
    strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(
    serialize_all = "kebab-case",
    parse_err_ty = SignatureSchemeError,
    parse_err_fn = unknown_scheme
)]
pub enum SignatureScheme {
    /// `v1`: HMAC-SHA256 with a secret that the receiver shares.
    #[default]
    HmacSha256,
    /// `v1a`: Ed25519; the receiver has the public key only.
    Ed25519,
}

/// The text is not a signature scheme.
#[derive(Debug, thiserror::Error)]
#[error("must be hmac-sha256 or ed25519")]
pub struct SignatureSchemeError;

/// A secret that signs webhooks. Redacted in `Debug`; [`Self::reveal`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub enum SigningSecret {
    /// `whsec_` and the base64 of 24 to 64 random bytes.
    HmacSha256(HmacSecret),
    /// `whsk_` and the base64 of an Ed25519 seed.
    Ed25519(Ed25519Secret),
}

/// The text is not a signing secret.
#[derive(Debug, thiserror::Error)]
#[error(
    "must be whsec_ followed by the base64 of 24 to 64 bytes, or whsk_ followed by the base64 of an \
     Ed25519 key: the 32 bytes of its seed, or those and the 32 of its public key"
)]
pub struct SigningSecretError;

/// An HMAC key of 24 to 64 bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct HmacSecret(Vec<u8>);

/// An Ed25519 private key. Clones share the key pair, which is computed from the seed at first use: most
/// secrets that are loaded sign nothing.
#[derive(Clone)]
pub struct Ed25519Secret(Arc<Ed25519>);

struct Ed25519 {
    seed: [u8; SEED_BYTES],
    pair: OnceLock<Ed25519KeyPair>,
}

/// An Ed25519 public key, with which a receiver verifies: `whpk_` and its base64. Not a secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublicKey([u8; ED25519_PUBLIC_KEY_LEN]);

/// The text is not a public key.
#[derive(Debug, thiserror::Error)]
#[error("must be whpk_ followed by the base64 of the 32 bytes of an Ed25519 public key")]
pub struct PublicKeyError;

impl SignatureScheme {
    /// The word in requests and responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_scheme(_: &str) -> SignatureSchemeError {
    SignatureSchemeError
}

impl SigningSecret {
    /// Generates an HMAC secret of 32 random bytes.
    ///
    /// # Errors
    /// When the system has no random source.
    pub fn generate() -> Result<Self, getrandom::Error> {
        Self::generate_for(SignatureScheme::HmacSha256)
    }

    /// Generates a secret of a scheme from 32 random bytes.
    ///
    /// # Errors
    /// When the system has no random source.
    pub fn generate_for(scheme: SignatureScheme) -> Result<Self, getrandom::Error> {
        let mut bytes = [0; SEED_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(match scheme {
            SignatureScheme::HmacSha256 => Self::HmacSha256(HmacSecret(bytes.to_vec())),
            SignatureScheme::Ed25519 => Self::Ed25519(Ed25519Secret::new(bytes)),
        })
    }

    /// Its signature scheme.
    pub const fn scheme(&self) -> SignatureScheme {
        match self {
            Self::HmacSha256(_) => SignatureScheme::HmacSha256,
            Self::Ed25519(_) => SignatureScheme::Ed25519,
        }
    }

    /// The key with which receivers verify, unless that is the secret itself.
    pub fn public_key(&self) -> Option<PublicKey> {
        match self {
            Self::HmacSha256(_) => None,
            Self::Ed25519(secret) => Some(secret.public_key()),
        }
    }

    /// The secret as text, for the store and its owner.
    pub fn reveal(&self) -> String {
        match self {
            Self::HmacSha256(secret) => format!("{HMAC_PREFIX}{}", STANDARD.encode(&secret.0)),
            Self::Ed25519(secret) => format!("{PRIVATE_PREFIX}{}", STANDARD.encode(secret.0.seed)),
        }
    }
}

impl HmacSecret {
    /// Minimum bytes: 192 bits, by the standard.
    pub const BYTES_MIN: usize = 24;
    /// Maximum bytes: 512 bits, by the standard.
    pub const BYTES_MAX: usize = 64;

    /// The key bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Ed25519Secret {
    fn new(seed: [u8; SEED_BYTES]) -> Self {
        Self(Arc::new(Ed25519 { seed, pair: OnceLock::new() }))
    }

    /// The key pair, ready to sign.
    #[expect(
        clippy::expect_used,
        clippy::missing_panics_doc,
        reason = "a seed is rejected only for a wrong length"
    )]
    pub fn key_pair(&self) -> &Ed25519KeyPair {
        let make = || Ed25519KeyPair::from_seed_unchecked(&self.0.seed).expect("32 bytes");
        self.0.pair.get_or_init(make)
    }

    fn public_key(&self) -> PublicKey {
        let mut bytes = [0; ED25519_PUBLIC_KEY_LEN];
        bytes.copy_from_slice(self.key_pair().public_key().as_ref());
        PublicKey(bytes)
    }
}

impl PartialEq for Ed25519Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.seed == other.0.seed
    }
}

impl Eq for Ed25519Secret {}

impl PublicKey {
    /// The 32 bytes.
    pub const fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for SigningSecret {
    type Err = SigningSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let decode = |encoded| STANDARD.decode(encoded).map_err(|_| SigningSecretError);
        if let Some(encoded) = text.strip_prefix(HMAC_PREFIX) {
            let bytes = decode(encoded)?;
            let fits = (HmacSecret::BYTES_MIN..=HmacSecret::BYTES_MAX).contains(&bytes.len());
            return if fits {
                Ok(Self::HmacSha256(HmacSecret(bytes)))
            } else {
                Err(SigningSecretError)
            };
        }
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or(SigningSecretError)?;
        ed25519(&decode(encoded)?).map(Self::Ed25519)
    }
}

/// Parses a seed, the format of the standard's Go library, or a seed with its public key, the format of
/// libsodium.
fn ed25519(bytes: &[u8]) -> Result<Ed25519Secret, SigningSecretError> {
    let (seed, public) = bytes.split_first_chunk::<SEED_BYTES>().ok_or(SigningSecretError)?;
    let secret = Ed25519Secret::new(*seed);
    if public.is_empty() || public == secret.public_key().bytes() {
        Ok(secret)
    } else {
        Err(SigningSecretError)
    }
}

impl FromStr for PublicKey {
    type Err = PublicKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or(PublicKeyError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| PublicKeyError)?;
        bytes.try_into().map(Self).map_err(|_| PublicKeyError)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningSecret({}, …)", self.scheme())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_survives_a_round_trip_and_is_hidden_in_debug() {
        for scheme in [SignatureScheme::HmacSha256, SignatureScheme::Ed25519] {
            let secret = SigningSecret::generate_for(scheme).unwrap();
            let back: SigningSecret = secret.reveal().parse().unwrap();
            assert_eq!((&back, back.scheme()), (&secret, scheme));
            assert_eq!(format!("{secret:?}"), format!("SigningSecret({scheme}, …)"));
        }
    }

    #[test]
    fn hmac_secrets_have_24_to_64_bytes() {
        let parse = |bytes: usize| {
            format!("whsec_{}", STANDARD.encode(vec![7; bytes])).parse::<SigningSecret>()
        };
        for (bytes, taken) in [(0, false), (23, false), (24, true), (64, true), (65, false)] {
            assert_eq!(parse(bytes).is_ok(), taken, "{bytes}");
        }
    }

    #[test]
    fn malformed_secrets_are_refused() {
        let key = STANDARD.encode([7; 32]);
        for text in ["", "whsec_", "whsk_", "whsec_!", &key, &format!("whpk_{key}")] {
            assert!(text.parse::<SigningSecret>().is_err(), "{text}");
        }
        for bytes in [0, 31, 33, 63, 65] {
            let text = format!("whsk_{}", STANDARD.encode(vec![7; bytes]));
            assert!(text.parse::<SigningSecret>().is_err(), "{bytes}");
        }
    }

    /// RFC 8032 section 7.1, test 1.
    #[test]
    fn private_key_is_a_seed_alone_or_with_its_public_key() {
        let hex = |text: &str| u128::from_str_radix(text, 16).unwrap().to_be_bytes();
        let seed =
            [hex("9d61b19deffd5a60ba844af492ec2cc4"), hex("4449c5697b326919703bac031cae7f60")];
        let public =
            [hex("d75a980182b10ab7d54bfed3c964073a"), hex("0ee172f3daa62325af021a68f707511a")];
        let (seed, public) = (seed.concat(), public.concat());
        let parse = |bytes: &[u8]| format!("whsk_{}", STANDARD.encode(bytes)).parse();
        let short: SigningSecret = parse(&seed).unwrap();
        let long: SigningSecret = parse(&[&seed[..], &public].concat()).unwrap();
        assert_eq!(short, long);
        let shown = short.public_key().unwrap();
        assert_eq!(shown.bytes(), public);
        assert_eq!(shown.to_string().parse::<PublicKey>().unwrap(), shown);
        let strange: Result<SigningSecret, _> = parse(&[&seed[..], &seed].concat());
        assert!(strange.is_err(), "a public key of another seed");
    }
}
