//! Hashes key secrets with Argon2id, in the blocking pool. [`super::hash_queue`] bounds concurrent hashes.
//!
//! A hash costs 19 MiB and the time of ten thousand look-ups, so anyone who can make the server hash can slow
//! it down. Key ids are public and anyone can compute a key's checksum; that alone must not cost a hash. So a
//! salt consists of 16 random bytes and 32 bits of a SHA-256 over them and the secret. A wrong secret fails
//! this check without a hash, except for one in 2^32. A stolen table reveals 32 of a secret's 256 random
//! bits, which leaves too many to guess.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};

use crate::domain::KeyHash;

/// The parameters that OWASP recommends for Argon2id: 19 MiB, two passes, one lane; about 25 ms on one core.
///
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id>
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const RANDOM_BYTES: usize = 16;
const CHECK_BYTES: usize = 4;

/// Why a secret could not be hashed or verified.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Argon2id rejected its input: a stored hash is malformed.
    #[error("argon2id: {0}")]
    Argon2(String),
    /// The system has no random source for a salt.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The blocking pool is shutting down.
    #[error("hashing was interrupted: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
}

/// Hashes a secret with a new salt, in the blocking pool. Holds the permit until the hash is computed, even
/// if the caller goes away.
pub(super) async fn hash(
    secret: String,
    permit: impl Send + 'static,
) -> Result<KeyHash, HashError> {
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        hash_blocking(&secret)
    })
    .await?
}

/// Whether `hash` is of `secret`, computed in the blocking pool. Holds the permit as [`hash()`] does.
pub(super) async fn verify(
    secret: String,
    hash: KeyHash,
    permit: impl Send + 'static,
) -> Result<bool, HashError> {
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        verify_blocking(&secret, &hash)
    })
    .await?
}

/// Whether `secret` passes the check in the salt and must be hashed. Salts without a check, from other
/// programs, pass every secret.
pub(super) fn may_match(secret: &str, hash: &KeyHash) -> bool {
    // $argon2id$v=19$m=…$salt$hash
    let salt = hash.phc().split('$').nth(4).and_then(|salt| STANDARD_NO_PAD.decode(salt).ok());
    let Some((random, found)) = salt.as_deref().and_then(|s| s.split_at_checked(RANDOM_BYTES))
    else {
        return true;
    };
    let Ok(found) = found.try_into() else { return true };
    // Compared as numbers, in one instruction and so in constant time.
    u32::from_ne_bytes(found) == u32::from_ne_bytes(check(random, secret))
}

fn check(random: &[u8], secret: &str) -> [u8; CHECK_BYTES] {
    let digest = Sha256::new().chain_update(random).chain_update(secret).finalize();
    std::array::from_fn(|index| digest[index])
}

/// Hashes a secret on this thread.
pub fn hash_blocking(secret: &str) -> Result<KeyHash, HashError> {
    let mut salt = [0; RANDOM_BYTES + CHECK_BYTES];
    let (random, check_bytes) = salt.split_at_mut(RANDOM_BYTES);
    getrandom::fill(random)?;
    check_bytes.copy_from_slice(&check(random, secret));
    let hash = argon2id()?.hash_password_with_salt(secret.as_bytes(), &salt).map_err(malformed)?;
    Ok(KeyHash::new(hash.to_string()))
}

/// Verifies a secret on this thread, with the parameters that the hash names.
pub fn verify_blocking(secret: &str, hash: &KeyHash) -> Result<bool, HashError> {
    use argon2::password_hash::Error;
    match argon2id()?.verify_password(secret.as_bytes(), hash.phc()) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(malformed(error)),
    }
}

fn argon2id() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(malformed)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn malformed(error: impl std::fmt::Display) -> HashError {
    HashError::Argon2(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_verifies_its_secret_and_no_other() {
        let hash = hash_blocking("secret").unwrap();
        assert!(hash.phc().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.phc());
        assert!(verify_blocking("secret", &hash).unwrap());
        assert!(!verify_blocking("Secret", &hash).unwrap());
        assert!(verify_blocking("secret", &KeyHash::new("nonsense".to_owned())).is_err());
    }

    #[test]
    fn wrong_secret_fails_the_check_in_the_salt_and_passes_a_salt_without_one() {
        let hash = hash_blocking("secret").unwrap();
        assert!(may_match("secret", &hash));
        assert!(!may_match("Secret", &hash));
        for phc in ["nonsense", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaA"] {
            assert!(may_match("Secret", &KeyHash::new(phc.to_owned())), "{phc}");
        }
    }
}
