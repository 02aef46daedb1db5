//! The form of a key: `hg_<key id>_<secret and checksum>`.
//!
//! The key id is 32 hexadecimal digits, public, and what the key is looked up by. Behind it come 32
//! random bytes and the CRC32C of everything before it, as 48 characters of unpadded base64url. The
//! checksum proves nothing to an attacker's disadvantage; it catches mistyped and truncated keys
//! without a look-up, and lets secret scanners tell a key from noise.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::hasher::{self, HashError};
use crate::domain::{ApiKey, ApiKeyId, Role, Timestamp};

const PREFIX: &str = "hg_";
const ID_DIGITS: usize = 32;
const SECRET_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

/// A well-formed key as it was presented. Its text is hidden in `Debug`.
#[derive(Clone)]
pub struct PresentedKey {
    id: ApiKeyId,
    text: String,
}

/// The text has not the form of a key, or its checksum does not match.
#[derive(Debug, thiserror::Error)]
#[error("not a Hookgate API key: its form or checksum is wrong")]
pub struct MalformedKey;

/// A new key: the record to store, and the text that is shown once.
#[derive(Debug)]
pub struct IssuedKey {
    /// What the store keeps.
    pub record: ApiKey,
    /// What its owner gets.
    pub key: PresentedKey,
}

/// Why no key could be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The system has no random source.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Too many keys are being made at once.
    #[error("too many keys are being made")]
    Busy,
}

/// Makes a key for all that its role may do, and for ever. Takes the time of one Argon2id hash, in
/// the blocking pool. For whoever makes a few keys one by one: what requests can ask for goes through
/// [`Authenticator::issue_key`](super::Authenticator::issue_key), which is bounded.
pub async fn issue_key(role: Role, name: String, now: Timestamp) -> Result<IssuedKey, IssueError> {
    issue_in_turn(role, name, now, ()).await
}

/// Makes a key, and holds on to `turn` until its hash is computed.
pub(super) async fn issue_in_turn(
    role: Role,
    name: String,
    now: Timestamp,
    turn: impl Send + 'static,
) -> Result<IssuedKey, IssueError> {
    let key = PresentedKey::generate(ApiKeyId::mint(now))?;
    let hash = hasher::hash(key.reveal().to_owned(), turn).await?;
    let record = ApiKey {
        id: key.id,
        role,
        name,
        scopes: role.scopes(),
        hash,
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    Ok(IssuedKey { record, key })
}

impl PresentedKey {
    /// A well-formed key with this id and a secret of random bytes, which nobody has hashed yet.
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

    /// The public id it names.
    pub const fn id(&self) -> ApiKeyId {
        self.id
    }

    /// The key's text: for its owner, and for the hasher.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What the caches know it by.
    pub(super) fn digest(&self) -> KeyDigest {
        KeyDigest::of(&self.text)
    }
}

/// The SHA-256 of a presented key. The secret's 256 random bits make it impossible to reverse.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of a text that was presented as a key.
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

    fn key() -> PresentedKey {
        PresentedKey::generate(ApiKeyId::mint(Timestamp::from_micros(1))).unwrap()
    }

    #[test]
    fn key_goes_there_and_back() {
        let key = key();
        let parsed: PresentedKey = key.reveal().parse().unwrap();
        assert_eq!(parsed.id(), key.id());
        assert_eq!(parsed.digest(), key.digest());
        assert_eq!(key.reveal().len(), 84);
    }

    #[test]
    fn any_one_changed_character_is_noticed() {
        let key = key();
        for place in 0..key.reveal().len() {
            let mut text = key.reveal().to_owned().into_bytes();
            text[place] = if text[place] == b'a' { b'b' } else { b'a' };
            let text = String::from_utf8(text).unwrap();
            assert!(text.parse::<PresentedKey>().is_err(), "{place}");
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
