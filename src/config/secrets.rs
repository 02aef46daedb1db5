//! Keys that encrypt endpoint secrets in the store.

use std::ffi::OsStr;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// The keys of `SECRETS_KEY`, 1 to 16 of them: the first encrypts, all decrypt.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretsKeys(Vec<[u8; 32]>);

/// Maximum keys: each beyond the first is a rotation that is not finished.
const KEYS_MAX: usize = 16;

impl SecretsKeys {
    /// Parses comma-separated keys, each 32 bytes in base64.
    ///
    /// # Errors
    /// With the rule that the text violates, and nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rule = "must be one or more comma-separated keys, each 32 bytes in base64 (`openssl rand -base64 32`)";
        let decode = |key: &str| STANDARD.decode(key.trim()).ok()?.try_into().ok();
        let keys: Option<Vec<_>> = text.split(',').map(decode).collect();
        let keys = keys.ok_or_else(|| rule.to_owned())?;
        if keys.len() > KEYS_MAX {
            return Err(format!("must be at most {KEYS_MAX} keys"));
        }
        Ok(Self(keys))
    }

    /// The keys, at least one.
    pub fn keys(&self) -> &[[u8; 32]] {
        &self.0
    }
}

impl fmt::Debug for SecretsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKeys(…)")
    }
}

/// Parses the keys. Unlike clap's own parsers it does not repeat an invalid value, which is a secret.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecretsKeysParser;

impl TypedValueParser for SecretsKeysParser {
    type Value = SecretsKeys;

    fn parse_ref(
        &self,
        cmd: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<SecretsKeys, Error> {
        let parsed = SecretsKeys::parse(&value.to_string_lossy());
        parsed.map_err(|rule| {
            Error::raw(ErrorKind::ValueValidation, format!("SECRETS_KEY {rule}\n")).with_cmd(cmd)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lists_of_32_bytes_and_hide_in_debug() {
        let key = |byte, bytes| STANDARD.encode(vec![byte; bytes]);
        let two = format!("{}, {}", key(1, 32), key(2, 32));
        let keys = SecretsKeys::parse(&two).unwrap();
        assert_eq!(keys.keys(), [[1; 32], [2; 32]]);
        assert_eq!(format!("{keys:?}"), "SecretsKeys(…)");
        let many = vec![key(1, 32); 17].join(",");
        for text in ["", ",", "password", &key(1, 31), &format!("{},", key(1, 32)), &many] {
            assert!(SecretsKeys::parse(text).is_err(), "{text}");
        }
    }
}
