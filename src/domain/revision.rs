//! Revisions: the state of a row that people change, so that nobody overwrites what they have not read.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::Endpoint;

/// Bytes of the digest of a row.
const DIGEST_BYTES: usize = 16;

/// A state of a row. Fields that change by themselves, such as counters and the time of the last use, are not part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revision(String);

/// What a change requires of the row that it changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// To be in one of these states.
    OneOf(Vec<Revision>),
}

impl Revision {
    /// The state with this number. A later change of the same row has another number.
    pub fn numbered(number: u64) -> Self {
        Self(number.to_string())
    }

    /// The state with this content.
    pub fn of(content: &impl Serialize) -> Self {
        // Strings, numbers and lists of them always serialise.
        let text = serde_json::to_vec(content).unwrap_or_default();
        let digest = Sha256::digest(&text);
        Self(URL_SAFE_NO_PAD.encode(digest.get(..DIGEST_BYTES).unwrap_or_default()))
    }

    /// As somebody has noted it.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Endpoint {
    /// Its state, for those who change it.
    pub fn revision(&self) -> Revision {
        Revision::numbered(self.version)
    }
}

impl Precondition {
    /// Whether a row in this state may be changed.
    pub fn holds(&self, revision: &Revision) -> bool {
        match self {
            Self::None => true,
            Self::OneOf(revisions) => revisions.contains(revision),
        }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precondition_holds_for_the_states_that_it_names() {
        let (one, two) = (Revision::numbered(1), Revision::of(&("a", 2)));
        assert_eq!(two, Revision::of(&("a", 2)));
        assert_ne!(two, Revision::of(&("a", 3)));
        assert!(Precondition::None.holds(&one));
        let noted = Precondition::OneOf(vec![Revision::from_text(&two.to_string())]);
        assert!(noted.holds(&two) && !noted.holds(&one));
        assert!(!Precondition::OneOf(Vec::new()).holds(&one));
    }
}
