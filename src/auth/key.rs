//! The format of a key: `hg_<key id>_<secret and checksum>`.
//!
//! The key id is 32 hexadecimal digits; it is public, and the key is looked up by it. Then follow 32 random
//! bytes and the CRC32C of everything before, as 48 characters of unpadded base64url. The checksum is no
//! protection against attackers; it catches mistyped and truncated keys without a look-up, and lets secret
//! scanners tell a key from noise.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::domain::ApiKeyId;

const PREFIX: &str = "hg_";
const ID_DIGITS: usize = 32;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

/// A well-formed key. Its text is redacted in `Debug`.
#[derive(Clone)]
pub struct PresentedKey {
    id: ApiKeyId,
    text: String,
}

/// The text does not have the format of a key, or its checksum is wrong.
#[derive(Debug, thiserror::Error)]
#[error("not a Hookgate API key: its format or checksum is wrong")]
pub struct MalformedKey;

impl PresentedKey {
    /// A well-formed key with this id and a random secret.
    pub fn generate(id: ApiKeyId) -> Result<Self, getrandom::Error> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        Ok(Self { id, text: Self::compose(id, &secret) })
    }

    fn compose(id: ApiKeyId, secret: &[u8; SECRET_BYTES]) -> String {
        let mut text = format!("{PREFIX}{}_", id.uuid().simple());
        let mut tail = [0; SECRET_BYTES + CHECKSUM_BYTES];
        tail[..SECRET_BYTES].copy_from_slice(secret);
        tail[SECRET_BYTES..].copy_from_slice(&checksum(text.as_bytes(), secret));
        URL_SAFE_NO_PAD.encode_string(tail, &mut text);
        text
    }

    /// Its public id.
    pub const fn id(&self) -> ApiKeyId {
        self.id
    }

    /// Its text, for its owner and the hasher.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Its digest, for the caches.
    pub(super) fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.text)
    }
}

/// The SHA-256 of a presented key. It cannot be reversed, since the secret has 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a presented text.
    pub(super) fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }
}

impl FromStr for PresentedKey {
    type Err = MalformedKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (id, tail) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_at_checked(ID_DIGITS))
            .and_then(|(id, rest)| Some((id, rest.strip_prefix('_')?)))
            .ok_or(MalformedKey)?;
        let mut bytes = [0; SECRET_BYTES + CHECKSUM_BYTES];
        match URL_SAFE_NO_PAD.decode_slice(tail, &mut bytes) {
            Ok(length) if length == bytes.len() => {}
            Ok(_) | Err(_) => return Err(MalformedKey),
        }
        let (secret, found) = bytes.split_at(SECRET_BYTES);
        let public = &text.as_bytes()[..=PREFIX.len() + ID_DIGITS];
        if checksum(public, secret) != found {
            return Err(MalformedKey);
        }
        let id = Uuid::try_parse(id).map_err(|_| MalformedKey)?;
        Ok(Self { id: ApiKeyId::from_uuid(id), text: text.to_owned() })
    }
}

impl fmt::Debug for PresentedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PresentedKey({}…)", self.id)
    }
}

fn checksum(public: &[u8], secret: &[u8]) -> [u8; CHECKSUM_BYTES] {
    crc32c::crc32c_append(crc32c::crc32c(public), secret).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn key() -> PresentedKey {
        PresentedKey::generate(ApiKeyId::mint(Timestamp::from_micros(1))).unwrap()
    }

    #[test]
    fn key_survives_a_round_trip() {
        let key = key();
        let parsed: PresentedKey = key.reveal().parse().unwrap();
        assert_eq!(parsed.id(), key.id());
        assert_eq!(parsed.digest(), key.digest());
        assert_eq!(key.reveal().len(), 84);
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let key = key();
        for index in 0..key.reveal().len() {
            let mut text = key.reveal().to_owned().into_bytes();
            text[index] = if text[index] == b'a' { b'b' } else { b'a' };
            let text = String::from_utf8(text).unwrap();
            assert!(text.parse::<PresentedKey>().is_err(), "{index}");
        }
    }

    #[test]
    fn shortened_lengthened_and_foreign_texts_are_refused() {
        let text = key().reveal().to_owned();
        let longer = format!("{text}A");
        for bad in ["", "hg_", "hg_é", &text[..83], &longer, "sk_live_51H8"] {
            assert!(bad.parse::<PresentedKey>().is_err(), "{bad}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = key();
        assert!(!format!("{key:?}").contains(&key.reveal()[36..]));
    }
}
