//! Keys that encrypt what the store holds of secrets.

use std::ffi::OsStr;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

/// The keys of `SECRETS_KEY`: the first encrypts, all decrypt. At least one, at most 16.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretsKeys(Vec<[u8; 32]>);

/// Keys at most: each is a step of rotating them that was not finished.
const KEYS_MAX: usize = 16;

impl SecretsKeys {
    /// Takes keys with commas between them, each the base64 of 32 bytes.
    ///
    /// # Errors
    /// With the rule that is broken, which repeats nothing of the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rule = "must be one or more keys, each the base64 of 32 bytes (`openssl rand -base64 32`), \
                    with commas between them";
        let decode = |key: &str| STANDARD.decode(key.trim()).ok()?.try_into().ok();
        let keys: Option<Vec<_>> = text.split(',').map(decode).collect();
        let keys = keys.ok_or_else(|| rule.to_owned())?;
        if keys.len() > KEYS_MAX {
            return Err(format!("must be at most {KEYS_MAX} keys"));
        }
        Ok(Self(keys))
    }

    /// The keys; there is a first one.
    pub fn keys(&self) -> &[[u8; 32]] {
        &self.0
    }
}

impl fmt::Debug for SecretsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretsKeys(…)")
    }
}

/// Reads the keys and, unlike clap by itself, does not repeat them when they break a rule.
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
