//! Encrypts what the store holds of secrets, where `SECRETS_KEY` is set.
//!
//! An encrypted text is `enc1.<key id>.<base64 of nonce, ciphertext and tag>`: AES-256-GCM under a random
//! nonce, bound by its associated data to its column and to the endpoint's organisation and id, so
//! that it decrypts nowhere else. The key id is the start of a hash of the key. Every text that does not
//! begin so is in clear: one from before there was a key.
//!
//! Nonces of 96 random bits are good for 2^32 texts under one key (NIST SP 800-38D section 8.3);
//! endpoints' secrets are written when people change them.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};

use crate::config::SecretsKeys;
use crate::domain::{
    CustomHeaders, Decrypted, DecryptionError, Endpoint, EndpointId, OrgId, Secrets, SigningSecret,
};

use super::engine::Row;
use super::{Result, StoreError};

/// How every encrypted text begins: the version of its form.
pub(super) const HEAD: &str = "enc1.";
/// Characters of a key id, hexadecimal.
const KEY_ID_CHARS: usize = 12;
/// Where the key id of an encrypted text ends.
pub(super) const KEY_HEAD_CHARS: usize = HEAD.len() + KEY_ID_CHARS;

/// The keys, ready for use. Without any, everything is written in clear.
pub(super) struct Keyring(Vec<Key>);

struct Key {
    id: String,
    key: LessSafeKey,
}

/// The endpoint that an encrypted text is bound to, as associated data.
#[derive(Clone, Copy, Debug)]
pub(super) struct CipherContext {
    pub(super) org: OrgId,
    pub(super) endpoint: EndpointId,
}

/// The columns of an endpoint that may be encrypted, as the store has them.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SecretColumns {
    pub(super) secret: String,
    pub(super) earlier_secrets: Option<String>,
    pub(super) headers: Option<String>,
}

const SECRET: &str = "secret";
const EARLIER_SECRETS: &str = "earlier_secrets";
const HEADERS: &str = "headers";

impl SecretColumns {
    /// Reads the columns `secret`, `earlier_secrets` and `headers`.
    pub(super) fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            secret: row.get("secret")?,
            earlier_secrets: row.get_opt("earlier_secrets")?,
            headers: row.get_opt("headers")?,
        })
    }
}

impl Keyring {
    /// # Errors
    /// Never in practice: the keys have the length that the cipher asks for.
    pub(super) fn new(keys: Option<&SecretsKeys>) -> Result<Self> {
        let key = |bytes: &[u8; 32]| {
            let unbound = UnboundKey::new(&AES_256_GCM, bytes).ok()?;
            Some(Key { id: key_id(bytes), key: LessSafeKey::new(unbound) })
        };
        let keys = keys.map_or(&[][..], SecretsKeys::keys).iter().map(key).collect::<Option<_>>();
        keys.map(Self).ok_or_else(|| StoreError::Corrupt("SECRETS_KEY".to_owned()))
    }

    /// Whether an encrypted text that begins so can be decrypted.
    pub(super) fn knows(&self, head: &str) -> bool {
        head.strip_prefix(HEAD).is_some_and(|id| self.0.iter().any(|key| key.id == id))
    }

    /// The columns of an endpoint.
    ///
    /// # Errors
    /// When there is no source of random numbers, or the endpoint could not be decrypted.
    pub(super) fn encrypt_endpoint(&self, endpoint: &Endpoint) -> Result<SecretColumns> {
        let context = CipherContext { org: endpoint.org_id, endpoint: endpoint.id };
        let unreadable = |why: &DecryptionError| StoreError::Corrupt(why.to_string());
        let (secret, earlier_secrets) =
            self.encrypt_secrets(context, endpoint.secrets.as_ref().map_err(unreadable)?)?;
        let headers =
            self.encrypt_headers(context, endpoint.headers.as_ref().map_err(unreadable)?)?;
        Ok(SecretColumns { secret, earlier_secrets, headers })
    }

    /// The columns `secret` and `earlier_secrets`.
    pub(super) fn encrypt_secrets(
        &self,
        context: CipherContext,
        secrets: &Secrets,
    ) -> Result<(String, Option<String>)> {
        let secret = self.encrypt(context, SECRET, secrets.current().reveal())?;
        let earlier = secrets.reveal_earlier();
        let earlier =
            earlier.map(|text| self.encrypt(context, EARLIER_SECRETS, text)).transpose()?;
        Ok((secret, earlier))
    }

    /// The column `headers`.
    pub(super) fn encrypt_headers(
        &self,
        context: CipherContext,
        headers: &CustomHeaders,
    ) -> Result<Option<String>> {
        let text = (!headers.is_empty()).then(|| headers.reveal());
        text.map(|text| self.encrypt(context, HEADERS, text)).transpose()
    }

    /// Reads the columns `secret` and `earlier_secrets`.
    pub(super) fn decrypt_secrets(
        &self,
        context: CipherContext,
        columns: &SecretColumns,
    ) -> Decrypted<Secrets> {
        let malformed = || DecryptionError("the signing secret is malformed".to_owned());
        let secret = self.decrypt(context, SECRET, &columns.secret)?;
        let current: SigningSecret = secret.parse().map_err(|_| malformed())?;
        let Some(earlier) = &columns.earlier_secrets else { return Ok(Secrets::new(current)) };
        let earlier = self.decrypt(context, EARLIER_SECRETS, earlier)?;
        Secrets::with_earlier(current, &earlier).map_err(|_| malformed())
    }

    /// Reads the column `headers`.
    pub(super) fn decrypt_headers(
        &self,
        context: CipherContext,
        columns: &SecretColumns,
    ) -> Decrypted<CustomHeaders> {
        let Some(headers) = &columns.headers else { return Ok(CustomHeaders::default()) };
        let text = self.decrypt(context, HEADERS, headers)?;
        let malformed = |_| DecryptionError("the custom headers are malformed".to_owned());
        CustomHeaders::from_text(&text).map_err(malformed)
    }

    /// The same columns encrypted by the first key; `None` when they are, or when there is no key.
    pub(super) fn reencrypt(
        &self,
        context: CipherContext,
        columns: &SecretColumns,
    ) -> Result<Decrypted<Option<SecretColumns>>> {
        if self.0.is_empty() {
            return Ok(Ok(None));
        }
        let texts = [
            (SECRET, Some(&columns.secret)),
            (EARLIER_SECRETS, columns.earlier_secrets.as_ref()),
            (HEADERS, columns.headers.as_ref()),
        ];
        let mut encrypted = [None, None, None];
        for ((column, text), encrypted) in texts.into_iter().zip(&mut encrypted) {
            let Some(text) = text else { continue };
            *encrypted = Some(if self.is_encrypted_by_first(text) {
                text.clone()
            } else {
                match self.decrypt(context, column, text) {
                    Ok(text) => self.encrypt(context, column, text)?,
                    Err(unreadable) => return Ok(Err(unreadable)),
                }
            });
        }
        let [secret, earlier_secrets, headers] = encrypted;
        let secret = secret.unwrap_or_default();
        let reencrypted = SecretColumns { secret, earlier_secrets, headers };
        Ok(Ok((reencrypted != *columns).then_some(reencrypted)))
    }

    fn is_encrypted_by_first(&self, text: &str) -> bool {
        let by = text.strip_prefix(HEAD).and_then(|rest| rest.split_once('.'));
        self.0.first().is_some_and(|first| by.is_some_and(|(id, _)| id == first.id))
    }

    fn encrypt(&self, context: CipherContext, column: &str, text: String) -> Result<String> {
        let Some(first) = self.0.first() else { return Ok(text) };
        let failed = |_| StoreError::Unavailable(sqlx::Error::Encode("no random bytes".into()));
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(failed)?;
        let mut encrypted = text.into_bytes();
        let by = Nonce::assume_unique_for_key(nonce);
        first
            .key
            .seal_in_place_append_tag(by, context.bound_to(column), &mut encrypted)
            .map_err(|_| StoreError::Corrupt("a text too long to encrypt".to_owned()))?;
        let bytes = [&nonce[..], &encrypted].concat();
        Ok(format!("{HEAD}{}.{}", first.id, STANDARD.encode(bytes)))
    }

    fn decrypt(&self, context: CipherContext, column: &str, text: &str) -> Decrypted<String> {
        let Some(encrypted) = text.strip_prefix(HEAD) else { return Ok(text.to_owned()) };
        let unreadable = |why: String| {
            DecryptionError(format!(
                "the endpoint's secrets cannot be read, see SECRETS_KEY: {why}"
            ))
        };
        let (id, encrypted) = encrypted.split_once('.').unwrap_or((encrypted, ""));
        let key = self.0.iter().find(|key| key.id == id);
        let key = key.ok_or_else(|| unreadable(format!("the key {id} is not among its keys")))?;
        let decrypted = || {
            let mut bytes = STANDARD.decode(encrypted).ok()?;
            let (nonce, encrypted) = bytes.split_first_chunk_mut::<NONCE_LEN>()?;
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let text = key.key.open_in_place(nonce, context.bound_to(column), encrypted).ok()?;
            String::from_utf8(text.to_vec()).ok()
        };
        let why = format!("the key {id} does not open what is stored, which was changed or moved");
        decrypted().ok_or_else(|| unreadable(why))
    }
}

impl CipherContext {
    fn bound_to(self, column: &str) -> Aad<Vec<u8>> {
        let ids = [self.org.uuid().into_bytes(), self.endpoint.uuid().into_bytes()].concat();
        Aad::from([&ids[..], column.as_bytes()].concat())
    }
}

/// Identifies a key to a reader of the row that does not have it.
fn key_id(key: &[u8; 32]) -> String {
    let hash = Sha256::new().chain_update(b"hookgate secrets key").chain_update(key).finalize();
    let start =
        hash.iter().take(KEY_ID_CHARS / 2).fold(0_u64, |id, byte| id << 8 | u64::from(*byte));
    format!("{start:0KEY_ID_CHARS$x}")
}

/// The key id within the start of an encrypted text.
pub(super) fn key_id_of(head: &str) -> &str {
    head.strip_prefix(HEAD).unwrap_or(head)
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Timestamp;

    const NOW: Timestamp = Timestamp::from_micros(0);

    fn keyring(bytes: &[u8]) -> Keyring {
        let keys: Vec<String> = bytes.iter().map(|byte| STANDARD.encode([*byte; 32])).collect();
        let keys = SecretsKeys::parse(&keys.join(",")).unwrap();
        Keyring::new(Some(&keys)).unwrap()
    }

    fn endpoint() -> Endpoint {
        let url = "https://example.com/".parse().unwrap();
        let mut endpoint =
            Endpoint::new(OrgId::mint(NOW), url, SigningSecret::generate().unwrap(), NOW);
        let new = SigningSecret::generate().unwrap();
        endpoint.secrets = Ok(endpoint.rotated_secrets(new, Duration::from_secs(9), NOW).unwrap());
        endpoint.headers = Ok(CustomHeaders::parse([("x-a", "b")]).unwrap());
        endpoint
    }

    fn context(endpoint: &Endpoint) -> CipherContext {
        CipherContext { org: endpoint.org_id, endpoint: endpoint.id }
    }

    fn all_start_with(columns: &SecretColumns, head: &str) -> bool {
        let rest = [&columns.earlier_secrets, &columns.headers].into_iter().flatten();
        rest.chain([&columns.secret]).all(|text| text.starts_with(head))
    }

    #[test]
    fn encrypted_text_decrypts_in_its_place_only() {
        let (keyring, endpoint) = (keyring(&[1]), endpoint());
        let columns = keyring.encrypt_endpoint(&endpoint).unwrap();
        assert!(all_start_with(&columns, "enc1."));
        assert_eq!(keyring.decrypt_secrets(context(&endpoint), &columns), endpoint.secrets);
        assert_eq!(keyring.decrypt_headers(context(&endpoint), &columns), endpoint.headers);

        let other_org = CipherContext { org: OrgId::mint(NOW), ..context(&endpoint) };
        let other_endpoint =
            CipherContext { endpoint: EndpointId::mint(NOW), ..context(&endpoint) };
        for elsewhere in [other_org, other_endpoint] {
            let why = keyring.decrypt_secrets(elsewhere, &columns).unwrap_err().to_string();
            assert!(why.contains("SECRETS_KEY") && why.contains("moved"), "{why}");
            assert!(keyring.decrypt_headers(elsewhere, &columns).is_err());
        }
        let other_column = SecretColumns { headers: Some(columns.secret.clone()), ..columns };
        assert!(keyring.decrypt_headers(context(&endpoint), &other_column).is_err());
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (keyring, endpoint) = (keyring(&[1]), endpoint());
        let columns = keyring.encrypt_endpoint(&endpoint).unwrap();
        for index in 0..columns.secret.len() {
            let mut bytes = columns.secret.clone().into_bytes();
            bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
            let changed =
                SecretColumns { secret: String::from_utf8(bytes).unwrap(), ..columns.clone() };
            assert!(keyring.decrypt_secrets(context(&endpoint), &changed).is_err(), "{index}");
        }
    }

    #[test]
    fn first_key_encrypts_and_the_others_decrypt() {
        let (old, both, new) = (keyring(&[1]), keyring(&[2, 1]), keyring(&[2]));
        let endpoint = endpoint();
        let context = context(&endpoint);
        let by_old = old.encrypt_endpoint(&endpoint).unwrap();
        assert_eq!(both.decrypt_secrets(context, &by_old), endpoint.secrets);
        let why = new.decrypt_secrets(context, &by_old).unwrap_err().to_string();
        assert!(why.contains("is not among its keys"), "{why}");

        let by_new = both.reencrypt(context, &by_old).unwrap().unwrap().unwrap();
        assert!(all_start_with(&by_new, &format!("enc1.{}.", key_id(&[2; 32]))));
        assert_eq!(new.decrypt_secrets(context, &by_new), endpoint.secrets);
        assert_eq!(new.decrypt_headers(context, &by_new), endpoint.headers);
        assert!(both.reencrypt(context, &by_new).unwrap().unwrap().is_none(), "done before");
        assert!(new.reencrypt(context, &by_old).unwrap().is_err());
    }

    #[test]
    fn without_a_key_texts_are_in_clear_and_with_one_those_are_read_and_can_be_encrypted() {
        let (none, some) = (Keyring::new(None).unwrap(), keyring(&[1]));
        let endpoint = endpoint();
        let context = context(&endpoint);
        let clear = none.encrypt_endpoint(&endpoint).unwrap();
        assert!(clear.secret.starts_with("whsec_"));
        assert_eq!(some.decrypt_secrets(context, &clear), endpoint.secrets);
        assert_eq!(some.decrypt_headers(context, &clear), endpoint.headers);
        let encrypted = some.reencrypt(context, &clear).unwrap().unwrap().unwrap();
        assert!(all_start_with(&encrypted, "enc1."));
        assert!(none.decrypt_secrets(context, &encrypted).is_err());
        assert!(some.knows(&encrypted.secret[..KEY_HEAD_CHARS]));
        assert!(!none.knows(&encrypted.secret[..KEY_HEAD_CHARS]));
    }
}
