//! Opening, using and ending sessions of the console.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::authenticator::{AuthError, Authenticator, Inner};
use super::principal::Principal;
use super::session::{OpenSession, OpenedLink, SessionToken};
use crate::domain::{
    Actor, ApiKey, ApiKeyId, ConsoleSession, OrgId, PortalGrant, PortalSettings, SessionGrants,
    SessionKind, Timestamp,
};
use crate::runtime::Stopwatch;
use crate::store::{SessionHash, StoreError};

/// What a link opens.
#[derive(Debug)]
pub struct LinkLooks {
    /// Whether the console or the portal.
    pub kind: SessionKind,
    /// The name of the organisation; `None` for an operator.
    pub org_name: Option<String>,
    /// How the portal looks.
    pub portal: Option<PortalSettings>,
}

/// The longest wait to store when a session was used.
const NOTE_MAX: Duration = Duration::from_secs(1);

fn generate() -> Result<SessionToken, AuthError> {
    SessionToken::generate().map_err(|error| AuthError::Unavailable(Arc::new(error)))
}

impl Authenticator {
    /// Opens a session of the console. `None` when the key was rotated: a session would end at once.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn open_session(&self, key: ApiKeyId) -> Result<Option<SessionToken>, AuthError> {
        let inner = self.inner();
        let record = inner.store.system().key(key).await?;
        if record.is_none_or(|record| record.replaced_by.is_some()) {
            return Ok(None);
        }
        let (token, now) = (generate()?, inner.clock.now());
        let kind = SessionKind::Console;
        let session = ConsoleSession::new(key, kind, now, ConsoleSession::LASTS);
        if inner.store.system().insert_session(&token.hash(), &session).await? {
            // Others have ended.
            inner.keys.invalidate(key);
        }
        Ok(Some(token))
    }

    /// Opens the session of a link, which then is used up. `None` when the token is no link, or the link was used or has
    /// ended.
    ///
    /// # Errors
    /// When the caller has presented too many wrong tokens, or the store does not answer.
    pub async fn use_link(
        &self,
        link: &SessionToken,
        client: IpAddr,
    ) -> Result<Option<OpenedLink>, AuthError> {
        let inner = self.inner();
        let checked = inner.throttle.check(client);
        checked.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        let (token, now) = (generate()?, inner.clock.now());
        // The link of a key that has ended opens nothing, and is not used up.
        let Some(LinkLooks { portal, .. }) = inner.link(link, now).await? else {
            inner.throttle.record_failure(client);
            return Ok(None);
        };
        let hash = token.hash();
        let opened = inner.store.system().exchange_link(&link.hash(), &hash, client, now).await?;
        let Some((session, others_ended)) = opened else { return Ok(None) };
        if others_ended {
            inner.keys.invalidate(session.key_id);
        }
        Ok(Some(OpenedLink { token, session, portal }))
    }

    /// How the portal looks that a link opens; `None` when the token is no link that may be used.
    ///
    /// # Errors
    /// When the caller has presented too many wrong tokens, or the store does not answer.
    pub async fn look_at_link(
        &self,
        link: &SessionToken,
        client: IpAddr,
    ) -> Result<Option<LinkLooks>, AuthError> {
        let inner = self.inner();
        let checked = inner.throttle.check(client);
        checked.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        let looks = inner.link(link, inner.clock.now()).await?;
        if looks.is_none() {
            inner.throttle.record_failure(client);
        }
        Ok(looks)
    }

    /// The session of a token; `None` if it has ended, or there never was one. It ends when it is not used for a while,
    /// which `is_use` puts off: what a page asks for by itself does not.
    ///
    /// # Errors
    /// When the caller has presented too many wrong tokens, or the session is not known here and the store does not
    /// answer.
    pub async fn session(
        &self,
        token: &SessionToken,
        client: IpAddr,
        is_use: bool,
    ) -> Result<Option<Arc<OpenSession>>, AuthError> {
        let (inner, hash) = (self.inner(), token.hash());
        let known = inner.sessions.open.get(&hash).filter(|known| inner.is_current(known));
        let session = match known {
            Some(known) if known.read.elapsed() < inner.keys.ttl() => Some(known),
            Some(known) => match inner.read_session(hash).await {
                Ok(read) => read,
                Err(error) if known.read.elapsed() < inner.keys.stale_max() => {
                    tracing::debug!(%error, "a session is used as it was");
                    Some(known)
                }
                Err(error) => return Err(error.into()),
            },
            None => inner.unknown_session(hash, client).await?,
        };
        let now = inner.clock.now();
        let Some(session) = session.filter(|session| session.is_valid(now)) else {
            inner.sessions.open.invalidate(&hash);
            return Ok(None);
        };
        if is_use {
            inner.use_session(&session, now).await;
        }
        Ok(Some(session))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// When the store does not answer; it goes on then.
    pub async fn end_session(&self, session: &OpenSession) -> Result<(), AuthError> {
        let (inner, key) = (self.inner(), session.session.key_id);
        inner.store.system().end_session(&session.hash, key, inner.clock.now()).await?;
        inner.keys.invalidate(key);
        Ok(())
    }

    /// Ends every session and link of a key, and returns how many those were.
    ///
    /// # Errors
    /// When the store does not answer; they go on then.
    pub async fn end_sessions(&self, key: ApiKeyId) -> Result<u64, AuthError> {
        let inner = self.inner();
        let ended = inner.store.system().end_sessions(key, inner.clock.now()).await?;
        inner.keys.invalidate(key);
        Ok(ended)
    }

    /// Has an operator's session look into an organisation, or out of it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn view_org(
        &self,
        session: &OpenSession,
        org: OrgId,
        enters: bool,
        by: &Actor,
    ) -> Result<(), AuthError> {
        let (inner, key) = (self.inner(), session.session.key_id);
        let viewed_org = enters.then_some(org);
        let grants = SessionGrants { viewed_org, portal: None };
        let viewed = (&grants, org);
        inner.store.system().view_org((&session.hash, key), viewed, by, inner.clock.now()).await?;
        inner.keys.invalidate(key);
        Ok(())
    }
}

impl Inner {
    fn is_current(&self, known: &OpenSession) -> bool {
        known.epoch == self.keys.epoch(known.session.key_id)
    }

    /// What a link opens, if it may be used.
    async fn link(
        &self,
        link: &SessionToken,
        now: Timestamp,
    ) -> Result<Option<LinkLooks>, StoreError> {
        let Some(link) = self.store.system().session(&link.hash()).await? else { return Ok(None) };
        if link.opened(now).is_none() {
            return Ok(None);
        }
        let record = self.store.system().key(link.key_id).await?;
        let is_usable = |key: &ApiKey| key.is_active(now) && key.replaced_by.is_none();
        let Some(record) = record.filter(is_usable) else { return Ok(None) };
        let portal = self.portal_of(&link).await?;
        let org_name = match record.role.org_id() {
            Some(org) => self.store.org(org).await?.map(|org| org.name),
            None => None,
        };
        Ok(Some(LinkLooks { kind: link.kind, org_name, portal }))
    }

    /// How the portal of a session or a link looks, if it is one of the portal.
    async fn portal_of(
        &self,
        session: &ConsoleSession,
    ) -> Result<Option<PortalSettings>, StoreError> {
        if session.account_id.is_none() {
            return Ok(None);
        }
        let key = self.store.system().key(session.key_id).await?;
        match key.and_then(|key| key.role.org_id()) {
            Some(org) => self.store.portal_settings(org).await.map(Some),
            None => Ok(None),
        }
    }

    async fn unknown_session(
        &self,
        hash: SessionHash,
        client: IpAddr,
    ) -> Result<Option<Arc<OpenSession>>, AuthError> {
        if self.sessions.rejected.contains_key(&hash) {
            return Ok(None);
        }
        let checked = self.throttle.check(client);
        checked.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        let session = self.read_session(hash).await?;
        if session.is_none() {
            self.throttle.record_failure(client);
            self.sessions.rejected.insert(hash, ());
        }
        Ok(session)
    }

    /// Reads a session and its key, and caches them unless the key changed meanwhile.
    async fn read_session(
        &self,
        hash: SessionHash,
    ) -> Result<Option<Arc<OpenSession>>, StoreError> {
        let store = self.store.for_keys();
        let Some(session) = store.system().session(&hash).await? else { return Ok(None) };
        let key = session.key_id;
        let (epoch, read) = (self.keys.epoch(key), Stopwatch::start());
        // Once more: it may have ended before the epoch began.
        let Some(session) = store.system().session(&hash).await? else { return Ok(None) };
        let now = self.clock.now();
        if session.kind.opens().is_some() || !session.is_open(now) {
            return Ok(None);
        }
        let record = store.system().key(key).await?;
        let is_usable = |key: &ApiKey| key.is_active(now) && key.replaced_by.is_none();
        let Some(record) = record.filter(is_usable) else { return Ok(None) };
        let Some(principal) = self.principal(&record).await? else { return Ok(None) };
        let Some(principal) = limited(principal, &session) else { return Ok(None) };
        let portal = match (session.kind, record.role.org_id()) {
            (SessionKind::Portal, Some(org)) => Some(store.portal_settings(org).await?),
            _ => None,
        };
        let org_name = match record.role.org_id() {
            Some(org) => store.org(org).await?.map(|org| org.name),
            None => None,
        };
        let opened = Arc::new(OpenSession {
            hash,
            noted_at: AtomicI64::new(session.last_used_at.micros()),
            session,
            principal: Arc::new(principal),
            key_name: record.name,
            org_name,
            portal,
            key_expires_at: record.expires_at,
            key_used: self.usage.key(record.id),
            epoch,
            read,
        });
        if self.is_current(&opened) {
            self.sessions.open.insert(hash, Arc::clone(&opened));
        }
        Ok(Some(opened))
    }

    /// Marks a session and its key as used. That it is not stored does no harm for a while.
    async fn use_session(&self, session: &OpenSession, now: Timestamp) {
        session.key_used.store(true, Ordering::Relaxed);
        let noted_at = Timestamp::from_micros(session.noted_at.load(Ordering::Relaxed));
        if now.since(noted_at) < ConsoleSession::USE_RESOLUTION {
            return;
        }
        session.noted_at.store(now.micros(), Ordering::Relaxed);
        let noting = self.store.system().note_session_used(&session.hash, now);
        if !matches!(tokio::time::timeout(NOTE_MAX, noting).await, Ok(Ok(()))) {
            tracing::debug!("the use of a session is not stored");
        }
    }
}

/// The principal of a session: that of its key, in the portal limited to one account. `None` for a session of the portal
/// that does not say to which.
fn limited(principal: Principal, session: &ConsoleSession) -> Option<Principal> {
    match (session.kind, &session.grants.portal, &session.account_id) {
        (SessionKind::Console, None, None) => Some(principal),
        (SessionKind::Portal, Some(grant), Some(account)) => Some(Principal {
            scopes: principal.scopes.of_those(grant.scopes).of_those(PortalGrant::SCOPES),
            account: Some(account.as_str().into()),
            ..principal
        }),
        _ => None,
    }
}
