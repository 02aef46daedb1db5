//! Argon2id, away from the async threads.

use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};

use crate::domain::KeyHash;

/// OWASP's first choice for Argon2id: 19 MiB, two passes, one lane; about 25 ms of one core.
///
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id>
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const SALT_BYTES: usize = 16;

/// Why a secret could be neither hashed nor verified.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Argon2id refused its input: a stored hash is damaged.
    #[error("argon2id: {0}")]
    Argon2(String),
    /// The system has no random source for a salt.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The blocking pool is shutting down.
    #[error("the hash was abandoned: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
}

/// Hashes a secret with a fresh salt, in the blocking pool.
pub(super) async fn hash(secret: String) -> Result<KeyHash, HashError> {
    tokio::task::spawn_blocking(move || hash_blocking(&secret)).await?
}

/// Whether `secret` is what `hash` was made from, found in the blocking pool.
pub(super) async fn verify(secret: String, hash: KeyHash) -> Result<bool, HashError> {
    tokio::task::spawn_blocking(move || verify_blocking(&secret, &hash)).await?
}

/// Hashes a secret on this thread.
pub fn hash_blocking(secret: &str) -> Result<KeyHash, HashError> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt)?;
    let hash = argon2id()?.hash_password_with_salt(secret.as_bytes(), &salt).map_err(broken)?;
    Ok(KeyHash::new(hash.to_string()))
}

/// Verifies a secret on this thread, with the parameters the hash itself names.
pub fn verify_blocking(secret: &str, hash: &KeyHash) -> Result<bool, HashError> {
    use argon2::password_hash::Error;
    match argon2id()?.verify_password(secret.as_bytes(), hash.phc()) {
        Ok(()) => Ok(true),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(broken(error)),
    }
}

fn argon2id() -> Result<Argon2<'static>, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(broken)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn broken(error: impl std::fmt::Display) -> HashError {
    HashError::Argon2(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_verifies_its_secret_and_no_other() {
        let hash = hash_blocking("secret").unwrap();
        assert!(hash.phc().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hash.phc());
        assert!(verify_blocking("secret", &hash).unwrap());
        assert!(!verify_blocking("Secret", &hash).unwrap());
        assert!(verify_blocking("secret", &KeyHash::new("nonsense".to_owned())).is_err());
    }
}
