//! Sessions of the console, their tokens, and their cache; `session_use` opens, uses and ends them.
//!
//! A session is found by the SHA-256 of its token and cached with the principal of its key. A cached session is used as
//! long as nothing was invalidated in the group of its key; past `AUTH_CACHE_TTL` its row and its key's are read again,
//! and while the store is away it is used as it was, for `AUTH_CACHE_STALE_MAX` at most.
//!
//! **Invariant:** a session never outlives its key: one that is revoked, expired, rotated, or of an organisation that is
//! suspended or deleted ends it, on every server as soon as that server learns of the change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moka::sync::Cache;
use sha2::{Digest, Sha256};

use super::key_cache::Epoch;
use super::principal::Principal;
use crate::domain::{
    ApiKeyId, ConsoleSession, PortalGrant, PortalSettings, SessionKind, Timestamp,
};
use crate::runtime::Stopwatch;
use crate::store::SessionHash;

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

/// The secret that a browser, or a link, presents: 256 random bits.
#[derive(Clone)]
pub struct SessionToken(String);

/// A session that a link has opened.
#[derive(Debug)]
pub struct OpenedLink {
    /// Its token.
    pub token: SessionToken,
    /// The session.
    pub session: ConsoleSession,
    /// How its portal looks, if it is one of the portal.
    pub portal: Option<PortalSettings>,
}

/// A session in use.
#[derive(Debug)]
pub struct OpenSession {
    pub(super) hash: SessionHash,
    /// The session as it was read.
    pub session: ConsoleSession,
    /// Whom its key authenticates.
    pub principal: Arc<Principal>,
    /// The name of its key.
    pub key_name: String,
    /// The name of its organisation; `None` for an operator.
    pub org_name: Option<String>,
    /// How its portal looks, if it is one of the portal.
    pub portal: Option<PortalSettings>,
    pub(super) key_expires_at: Option<Timestamp>,
    pub(super) key_used: Arc<AtomicBool>,
    /// When its use was last stored, in microseconds.
    pub(super) noted_at: AtomicI64,
    pub(super) epoch: Epoch,
    pub(super) read: Stopwatch,
}

/// The caches of sessions.
pub(super) struct SessionCache {
    pub(super) open: Cache<SessionHash, Arc<OpenSession>>,
    pub(super) rejected: Cache<SessionHash, ()>,
}

impl SessionToken {
    /// A random one.
    pub(super) fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes)?;
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

    pub(super) fn hash(&self) -> SessionHash {
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
) -> Result<(SessionToken, SessionHash, ConsoleSession), getrandom::Error> {
    let token = SessionToken::generate()?;
    let hash = token.hash();
    Ok((token, hash, ConsoleSession::new(key, SessionKind::Link, now, lasts)))
}

/// A link that opens the portal for an account once, and the row that is to be stored of it.
///
/// # Errors
/// When the system has no random source.
pub fn new_portal_link(
    key: ApiKeyId,
    account_id: String,
    grant: PortalGrant,
    now: Timestamp,
) -> Result<(SessionToken, SessionHash, ConsoleSession), getrandom::Error> {
    let token = SessionToken::generate()?;
    let hash = token.hash();
    Ok((token, hash, ConsoleSession::portal_link(key, account_id, grant, now)))
}

impl OpenSession {
    /// Whether it may be used.
    pub(super) fn is_valid(&self, now: Timestamp) -> bool {
        let used_at = Timestamp::from_micros(self.noted_at.load(Ordering::Relaxed));
        let session = ConsoleSession { last_used_at: used_at, ..self.session.clone() };
        session.is_open(now)
            && !self.principal.suspended
            && self.key_expires_at.is_none_or(|end| now < end)
    }
}
