//! What an attempt failed at, in one word that scripts and graphs may rely on.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

/// What an attempt failed at. The words are stable; the error in words beside it is for people.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The guard let nothing be sent: the endpoint leads where webhooks must not go.
    Blocked,
    /// The server could not sign it: it cannot read the endpoint's secret, say.
    Signing,
    /// The server failed at making or sending it.
    Internal,
    /// The name of the host could not be resolved.
    Dns,
    /// No connection: refused, or no way there.
    Connect,
    /// The receiver's certificate does not hold, or it does not speak TLS.
    Tls,
    /// No connection, or no answer, in time.
    Timeout,
    /// The connection ended before an answer came.
    Reset,
    /// What came back is no HTTP answer.
    Protocol,
    /// An answer other than 2xx.
    Status,
}

/// The text was no error class.
#[derive(Debug, thiserror::Error)]
#[error("is no class of errors")]
pub struct ErrorClassError;

impl ErrorClass {
    /// Every class, in the order an attempt can fail.
    pub const ALL: [Self; 10] = [
        Self::Blocked,
        Self::Signing,
        Self::Internal,
        Self::Dns,
        Self::Connect,
        Self::Tls,
        Self::Timeout,
        Self::Reset,
        Self::Protocol,
        Self::Status,
    ];

    /// The word used in the store, in answers and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Signing => "signing",
            Self::Internal => "internal",
            Self::Dns => "dns",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::Status => "status",
        }
    }
}

impl FromStr for ErrorClass {
    type Err = ErrorClassError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or(ErrorClassError)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_is_one_word_everywhere() {
        for class in ErrorClass::ALL {
            assert_eq!(class.as_str().parse::<ErrorClass>().unwrap(), class);
            assert_eq!(serde_json::to_value(class).unwrap(), class.as_str());
        }
        assert!("other".parse::<ErrorClass>().is_err());
    }
}
