//! The secret an endpoint's webhooks are signed with, in the form Standard Webhooks gives it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// `whsec_` and the base64 of 24 to 64 random bytes. Redacted in `Debug`; [`Self::reveal`] shows it.
///
/// <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(Vec<u8>);

/// The text was no signing secret.
#[derive(Debug, thiserror::Error)]
#[error("must be whsec_ followed by the base64 of 24 to 64 bytes")]
pub struct SigningSecretError;

const PREFIX: &str = "whsec_";

impl SigningSecret {
    /// A new secret of 32 bytes (256 bits) from the system's random source.
    ///
    /// # Errors
    /// When the system has no random source.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = vec![0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key bytes for the HMAC.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text form, for its owner and the store.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl FromStr for SigningSecret {
    type Err = SigningSecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SigningSecretError)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SigningSecretError)?;
        if !(24..=64).contains(&bytes.len()) {
            return Err(SigningSecretError);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_there_and_back_and_hides_in_debug() {
        let secret = SigningSecret::generate().unwrap();
        assert_eq!(secret.reveal().parse::<SigningSecret>().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "SigningSecret(…)");
    }

    #[test]
    fn short_and_unprefixed_secrets_are_refused() {
        assert!("whsec_c2hvcnQ=".parse::<SigningSecret>().is_err());
        assert!(STANDARD.encode([7; 32]).parse::<SigningSecret>().is_err());
    }
}
