//! The audit log: who changed what, when, and from where.
//!
//! An entry is written in the transaction of the change it tells of, and never changed after. It
//! names what was changed, and the new values where they are no secrets.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{ApiKeyId, OrgId, Timestamp};

/// Who changes something, and from where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Who it is.
    pub kind: ActorKind,
    /// The address the request came from; `None` for what came by no connection.
    pub address: Option<IpAddr>,
}

/// Who changes something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActorKind {
    /// Whoever holds this key.
    Key(ApiKeyId),
    /// Somebody at the command line.
    Cli,
    /// The server by itself, such as at its first start, or when it disables an endpoint that fails.
    Server,
}

impl Actor {
    /// Somebody at the command line.
    pub const CLI: Self = Self { kind: ActorKind::Cli, address: None };
    /// The server by itself.
    pub const SERVER: Self = Self { kind: ActorKind::Server, address: None };

    /// Whoever holds a key, at an address.
    pub const fn key(key: ApiKeyId, address: Option<IpAddr>) -> Self {
        Self { kind: ActorKind::Key(key), address }
    }
}

/// A key's id, `cli` or `server`.
impl fmt::Display for ActorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => key.fmt(f),
            Self::Cli => f.write_str("cli"),
            Self::Server => f.write_str("server"),
        }
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// Its id.
    pub id: Uuid,
    /// When it happened.
    pub at: Timestamp,
    /// Whose it is; `None` for what belongs to no organisation, or outlives one.
    pub org_id: Option<OrgId>,
    /// The id of the key that did it, `cli` or `server`.
    pub actor: String,
    /// Where the request came from.
    pub address: Option<String>,
    /// What was done, as in `endpoint.create`.
    pub action: String,
    /// The id of what it was done to.
    pub object: Uuid,
    /// What was changed; secrets are named but not shown.
    pub changes: Value,
}
