//! Sessions of the console, and the links that open one.
//!
//! A session is bound to the API key that it was opened with, and ends with it. It may do what its key may; an operator's
//! may also look into one organisation, only reading.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use super::{ApiKeyId, OrgId, Timestamp};

/// What a session's token is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum SessionKind {
    /// A link that opens the console once.
    Link,
    /// A session of the console.
    Console,
}

/// What a session may do beside its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionGrants {
    /// The organisation that an operator looks into, only reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewed_org: Option<OrgId>,
}

/// A session, or a link that opens one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsoleSession {
    /// The key that it is bound to.
    pub key_id: ApiKeyId,
    /// What it is.
    pub kind: SessionKind,
    /// What it may do.
    pub grants: SessionGrants,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it was last used, to five minutes.
    pub last_used_at: Timestamp,
    /// When it ends whether it is used or not.
    pub expires_at: Timestamp,
}

impl SessionKind {
    /// The word in the store.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What a link opens; `None` for sessions.
    pub const fn opens(self) -> Option<Self> {
        match self {
            Self::Link => Some(Self::Console),
            Self::Console => None,
        }
    }

    /// How many a key may have. The oldest ends when there is one more.
    pub const fn per_key_max(self) -> u32 {
        match self {
            Self::Link => 5,
            Self::Console => 20,
        }
    }
}

impl ConsoleSession {
    /// A session that is not used for this long ends.
    pub const IDLE_MAX: Duration = Duration::from_hours(12);
    /// A session of the console ends then.
    pub const LASTS: Duration = Duration::from_hours(7 * 24);
    /// Its last use is stored this often.
    pub const USE_RESOLUTION: Duration = Duration::from_mins(5);

    /// A session, or link, that was opened `now`.
    pub fn new(key_id: ApiKeyId, kind: SessionKind, now: Timestamp, lasts: Duration) -> Self {
        Self {
            key_id,
            kind,
            grants: SessionGrants::default(),
            created_at: now,
            last_used_at: now,
            expires_at: now.plus(lasts),
        }
    }

    /// Whether it has not ended.
    pub fn is_open(&self, now: Timestamp) -> bool {
        let is_idle = self.kind.opens().is_none() && now.since(self.last_used_at) >= Self::IDLE_MAX;
        now < self.expires_at && !is_idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_ends_when_it_is_idle_and_at_its_end() {
        let start = Timestamp::from_micros(0);
        let key = ApiKeyId::mint(start);
        let mut session =
            ConsoleSession::new(key, SessionKind::Console, start, ConsoleSession::LASTS);
        assert!(session.is_open(start.plus(Duration::from_hours(11))));
        assert!(!session.is_open(start.plus(ConsoleSession::IDLE_MAX)));
        session.last_used_at = start.plus(ConsoleSession::LASTS);
        assert!(!session.is_open(start.plus(ConsoleSession::LASTS)));
    }

    #[test]
    fn grants_survive_a_round_trip() {
        let grants = SessionGrants { viewed_org: Some(OrgId::from_uuid(uuid::Uuid::nil())) };
        let text = serde_json::to_string(&grants).unwrap();
        assert_eq!(text, r#"{"viewed_org":"00000000-0000-0000-0000-000000000000"}"#);
        assert_eq!(serde_json::from_str::<SessionGrants>("{}").unwrap(), SessionGrants::default());
        assert_eq!(serde_json::from_str::<SessionGrants>(&text).unwrap(), grants);
    }
}
