//! Sessions of the console, and the links that open one.
//!
//! A session is bound to the API key that it was opened with, and ends with it. It may do what its key may; an operator's
//! may also look into one organisation, only reading.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use super::{ApiKeyId, OrgId, PortalGrant, Timestamp};

/// What a session's token is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum SessionKind {
    /// A link that opens the console once.
    Link,
    /// A session of the console.
    Console,
    /// A link that opens the portal once.
    PortalLink,
    /// A session of the portal, limited to one account.
    Portal,
}

/// What a session may do beside its key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionGrants {
    /// The organisation that an operator looks into, only reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub viewed_org: Option<OrgId>,
    /// What a session of the portal may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub portal: Option<PortalGrant>,
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
    /// The only account that it sees and manages; `None` but of the portal.
    pub account_id: Option<String>,
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
            Self::PortalLink => Some(Self::Portal),
            Self::Console | Self::Portal => None,
        }
    }

    /// How many a key may have. The oldest ends when there is one more.
    pub const fn per_key_max(self) -> u32 {
        match self {
            Self::Link => 5,
            Self::Console => 20,
            Self::PortalLink => 1000,
            Self::Portal => 2000,
        }
    }

    /// How many an account may have by one key, so that none ends those of the others.
    pub const fn per_account_max(self) -> u32 {
        match self {
            Self::Link | Self::Console => 0,
            Self::PortalLink => 10,
            Self::Portal => 20,
        }
    }
}

impl ConsoleSession {
    /// A session that is not used for this long ends.
    pub const IDLE_MAX: Duration = Duration::from_hours(12);
    /// A session of the console ends then.
    pub const LASTS: Duration = Duration::from_hours(7 * 24);
    /// A link to the portal must be used within this time.
    pub const PORTAL_LINK_MAX: Duration = Duration::from_hours(1);
    /// Its last use is stored this often.
    pub const USE_RESOLUTION: Duration = Duration::from_mins(5);

    /// A session, or link, that was opened `now`.
    pub fn new(key_id: ApiKeyId, kind: SessionKind, now: Timestamp, lasts: Duration) -> Self {
        Self {
            key_id,
            kind,
            grants: SessionGrants::default(),
            account_id: None,
            created_at: now,
            last_used_at: now,
            expires_at: now.plus(lasts),
        }
    }

    /// A link that opens the portal for an account, made `now`.
    pub fn portal_link(
        key_id: ApiKeyId,
        account_id: String,
        grant: PortalGrant,
        now: Timestamp,
    ) -> Self {
        let lasts = Self::PORTAL_LINK_MAX.min(Duration::from_secs(grant.lasts_seconds));
        Self {
            grants: SessionGrants { viewed_org: None, portal: Some(grant) },
            account_id: Some(account_id),
            ..Self::new(key_id, SessionKind::PortalLink, now, lasts)
        }
    }

    /// The session that a link opens `now`; `None` if it is no link, or has ended.
    pub fn opened(&self, now: Timestamp) -> Option<Self> {
        let kind = self.kind.opens().filter(|_| self.is_open(now))?;
        let opened = Self::new(self.key_id, kind, now, Self::LASTS);
        match (kind, &self.grants.portal) {
            (SessionKind::Portal, Some(grant)) => Some(Self {
                grants: self.grants.clone(),
                account_id: Some(self.account_id.clone()?),
                expires_at: self.created_at.plus(Duration::from_secs(grant.lasts_seconds)),
                ..opened
            }),
            (SessionKind::Console, None) => Some(opened),
            _ => None,
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
    use super::super::{Scope, Scopes};
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
        let viewed_org = Some(OrgId::from_uuid(uuid::Uuid::nil()));
        let grants = SessionGrants { viewed_org, portal: None };
        let text = serde_json::to_string(&grants).unwrap();
        assert_eq!(text, r#"{"viewed_org":"00000000-0000-0000-0000-000000000000"}"#);
        assert_eq!(serde_json::from_str::<SessionGrants>("{}").unwrap(), SessionGrants::default());
        assert_eq!(serde_json::from_str::<SessionGrants>(&text).unwrap(), grants);
    }

    #[test]
    fn portal_link_opens_a_session_of_its_account_alone() {
        let start = Timestamp::from_micros(0);
        let scopes = Scopes::of(Scope::EventsRead);
        let grant = PortalGrant { scopes, lasts_seconds: 7200, return_url: None };
        let text = serde_json::to_string(&grant).unwrap();
        assert_eq!(serde_json::from_str::<PortalGrant>(&text).unwrap(), grant);
        let link =
            ConsoleSession::portal_link(ApiKeyId::mint(start), "acme".into(), grant.clone(), start);
        assert_eq!(link.expires_at, start.plus(ConsoleSession::PORTAL_LINK_MAX));
        let session = link.opened(start.plus(Duration::from_mins(30))).unwrap();
        assert_eq!(
            (session.kind, session.account_id.as_deref()),
            (SessionKind::Portal, Some("acme"))
        );
        assert_eq!(session.expires_at, start.plus(Duration::from_hours(2)));
        assert_eq!(session.opened(start), None, "a session opens nothing");
        assert_eq!(link.opened(start.plus(ConsoleSession::PORTAL_LINK_MAX)), None);
        let unlimited = ConsoleSession { account_id: None, ..link };
        assert_eq!(unlimited.opened(start), None);
    }
}
