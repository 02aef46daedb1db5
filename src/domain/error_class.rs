//! Error classes: why an attempt failed, as one stable word for scripts and dashboards.
//!
//! The free text beside a class is for people and may change; the word does not.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr, VariantArray};

/// Why an attempt failed.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Debug,
    JsonSchema,
    Serialize,
    EnumString,
    IntoStaticStr,
    VariantArray,
    strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = ErrorClassError, parse_err_fn = unknown_class)]
pub enum ErrorClass {
    /// The SSRF guard blocked the request: the endpoint leads to a forbidden address.
    Blocked,
    /// The webhook could not be signed, for example because the endpoint's secret cannot be decrypted.
    Signing,
    /// An internal error while the request was built or sent.
    Internal,
    /// The host name could not be resolved.
    Dns,
    /// The connection was refused, or the network is unreachable.
    Connect,
    /// The TLS handshake failed, or the certificate is invalid.
    Tls,
    /// No connection or no response in time.
    Timeout,
    /// The connection was closed before a response arrived.
    Reset,
    /// The response was not valid HTTP.
    Protocol,
    /// A response status other than 2xx.
    Status,
}

/// The text is not an error class.
#[derive(Debug, thiserror::Error)]
#[error("is not an error class")]
pub struct ErrorClassError;

impl ErrorClass {
    /// Every class, in the order in which an attempt can fail.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The word in the store, in responses and in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_class(_: &str) -> ErrorClassError {
    ErrorClassError
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_the_same_word_everywhere() {
        for class in ErrorClass::ALL {
            assert_eq!(class.as_str().parse::<ErrorClass>().unwrap(), *class);
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
            assert_eq!(class.to_string(), class.as_str());
        }
        assert_eq!(ErrorClass::Protocol.as_str(), "protocol");
        assert!("other".parse::<ErrorClass>().is_err());
    }
}
