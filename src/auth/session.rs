//! Sessions of the console: opening, using and ending them.
//!
//! A session is found by the SHA-256 of its token and cached with the principal of its key. A cached session is used as
//! long as nothing was invalidated in the group of its key; past `AUTH_CACHE_TTL` its row and its key's are read again,
//! and while the store is away it is used as it was, for `AUTH_CACHE_STALE_MAX` at most.
//!
//! **Invariant:** a session never outlives its key: one that is revoked, expired, rotated, or of an organisation that is
//! suspended or deleted ends it, on every server as soon as that server learns of the change.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::authenticator::{AuthError, Authenticator, Inner};
use super::key_cache::Epoch;
use super::principal::Principal;
use crate::domain::{
    Actor, ApiKeyId, ConsoleSession, OrgId, SessionGrants, SessionKind, Timestamp,
};
use crate::runtime::Stopwatch;
use crate::store::{SessionHash, StoreError};

/// Bytes of a token.
const TOKEN_BYTES: usize = 32;
/// Maximum sessions in the cache, with about 1 KiB each.
const SESSIONS_MAX: u64 = 10_000;
/// How long an unused one is kept there.
const IDLE: Duration = Duration::from_hours(1);
/// How long it is remembered that a token opens nothing.
const REJECTION_TTL: Duration = Duration::from_secs(10);
/// Maximum such tokens.
const REJECTIONS_MAX: u64 = 10_000;
/// The longest wait to store when a session was used.
const NOTE_MAX: Duration = Duration::from_secs(1);

/// The secret that a browser, or a link, presents: 256 random bits.
#[derive(Clone)]
pub struct SessionToken(String);

/// A session in use.
#[derive(Debug)]
pub struct OpenSession {
    hash: SessionHash,
    /// The session as it was read.
    pub session: ConsoleSession,
    /// Whom its key authenticates.
    pub principal: Arc<Principal>,
    /// The name of its key.
    pub key_name: String,
    /// The name of its organisation; `None` for an operator.
    pub org_name: Option<String>,
    key_expires_at: Option<Timestamp>,
    key_used: Arc<AtomicBool>,
    /// When its use was last stored, in microseconds.
    noted_at: AtomicI64,
    epoch: Epoch,
    read: Stopwatch,
}

/// The caches of sessions.
pub(super) struct SessionCache {
    open: Cache<SessionHash, Arc<OpenSession>>,
    rejected: Cache<SessionHash, ()>,
}

impl SessionToken {
    /// A random one.
    fn generate() -> Result<Self, AuthError> {
        let mut bytes = [0; TOKEN_BYTES];
        let unavailable = |error: getrandom::Error| AuthError::Unavailable(Arc::new(error));
        getrandom::fill(&mut bytes).map_err(unavailable)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The text that somebody presents; `None` if it has not the form of a token.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        (length == TOKEN_BYTES).then(|| Self(text.to_owned()))
    }

    /// Its text, for its owner's browser.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A secret that is derived from it, for the forms of its pages.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        Sha256::new()
            .chain_update(purpose)
            .chain_update([0])
            .chain_update(&self.0)
            .finalize()
            .into()
    }

    fn hash(&self) -> SessionHash {
        Sha256::digest(&self.0).into()
    }
}

impl std::fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

impl SessionCache {
    /// An empty one.
    pub(super) fn new() -> Self {
        let rejected = Cache::builder().max_capacity(REJECTIONS_MAX).time_to_live(REJECTION_TTL);
        Self {
            open: Cache::builder().max_capacity(SESSIONS_MAX).time_to_idle(IDLE).build(),
            rejected: rejected.build(),
        }
    }
}

/// A link that opens the console once, with this key, and the row that is to be stored of it.
///
/// # Errors
/// When the system has no random source.
pub fn new_link(
    key: ApiKeyId,
    now: Timestamp,
    lasts: Duration,
) -> Result<(SessionToken, SessionHash, ConsoleSession), AuthError> {
    let token = SessionToken::generate()?;
    let hash = token.hash();
    Ok((token, hash, ConsoleSession::new(key, SessionKind::Link, now, lasts)))
}

impl Authenticator {
    /// Opens a session of the console.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn open_session(&self, key: ApiKeyId) -> Result<SessionToken, AuthError> {
        let inner = self.inner();
        let (token, now) = (SessionToken::generate()?, inner.clock.now());
        let kind = SessionKind::Console;
        let session = ConsoleSession::new(key, kind, now, ConsoleSession::LASTS);
        if inner.store.system().insert_session(&token.hash(), &session).await? {
            // Others have ended.
            inner.keys.invalidate(key);
        }
        Ok(token)
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
    ) -> Result<Option<SessionToken>, AuthError> {
        let inner = self.inner();
        let checked = inner.throttle.check(client);
        checked.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        let (token, now) = (SessionToken::generate()?, inner.clock.now());
        let open = |found: &ConsoleSession| {
            let opens = found.kind.opens().filter(|_| found.is_open(now))?;
            Some(ConsoleSession::new(found.key_id, opens, now, ConsoleSession::LASTS))
        };
        let opened = inner.store.system().exchange_link(&link.hash(), &token.hash(), open).await?;
        if opened.is_none() {
            inner.throttle.record_failure(client);
        }
        Ok(opened.map(|_| token))
    }

    /// The session of a token; `None` if it has ended, or there never was one.
    ///
    /// # Errors
    /// When the caller has presented too many wrong tokens, or the session is not known here and the store does not
    /// answer.
    pub async fn session(
        &self,
        token: &SessionToken,
        client: IpAddr,
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
        inner.use_session(&session, now).await;
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
        let inner = self.inner();
        let viewed_org = enters.then_some(org);
        let grants = SessionGrants { viewed_org };
        let viewed = (&grants, org);
        inner.store.system().view_org(&session.hash, viewed, by, inner.clock.now()).await?;
        inner.sessions.open.invalidate(&session.hash);
        Ok(())
    }
}

impl Inner {
    fn is_current(&self, known: &OpenSession) -> bool {
        known.epoch == self.keys.epoch(known.session.key_id)
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
        let is_usable =
            |key: &crate::domain::ApiKey| key.is_active(now) && key.replaced_by.is_none();
        let Some(record) = record.filter(is_usable) else { return Ok(None) };
        let Some(principal) = self.principal(&record).await? else { return Ok(None) };
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

impl OpenSession {
    fn is_valid(&self, now: Timestamp) -> bool {
        let used_at = Timestamp::from_micros(self.noted_at.load(Ordering::Relaxed));
        let session = ConsoleSession { last_used_at: used_at, ..self.session.clone() };
        session.is_open(now)
            && !self.principal.suspended
            && self.key_expires_at.is_none_or(|end| now < end)
    }
}
