//! The audit log: who changed what, when, and from where.
//!
//! An entry is written in the transaction of the change it records, and is immutable. It names the changed
//! fields, with their new values unless they are secrets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{ApiKeyId, OrgId, Timestamp};

/// Who makes a change, and from where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Who makes it.
    pub kind: ActorKind,
    /// The client address of the request; `None` for changes without a request.
    pub address: Option<IpAddr>,
    /// The account of the portal in which it is made.
    pub account: Option<Arc<str>>,
}

/// Who makes a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActorKind {
    /// A request with this key.
    Key(ApiKeyId),
    /// The command line.
    Cli,
    /// The server itself, for example when it disables a failing endpoint.
    Server,
}

impl Actor {
    /// The command line.
    pub const CLI: Self = Self { kind: ActorKind::Cli, address: None, account: None };
    /// The server itself.
    pub const SERVER: Self = Self { kind: ActorKind::Server, address: None, account: None };

    /// A request with a key, from an address.
    pub const fn key(key: ApiKeyId, address: Option<IpAddr>) -> Self {
        Self { kind: ActorKind::Key(key), address, account: None }
    }

    /// The changed fields, and the account of the portal in which they were changed.
    pub fn named_in(&self, mut changes: Value) -> Value {
        if let (Some(account), Some(fields)) = (&self.account, changes.as_object_mut()) {
            fields.insert("portal_account_id".to_owned(), Value::from(&**account));
        }
        changes
    }

    /// The same in the portal of an account.
    #[must_use]
    pub fn of_account(self, account: Option<Arc<str>>) -> Self {
        Self { account, ..self }
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

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct AuditEntry {
    /// Its id.
    pub id: Uuid,
    /// When it happened.
    pub at: Timestamp,
    /// The organisation; `None` for entries that belong to none or outlive it.
    pub org_id: Option<OrgId>,
    /// The id of the key, `cli` or `server`; to organisations `operator` instead of an operator's key or `cli`.
    pub actor: String,
    /// The client address of the request.
    pub address: Option<String>,
    /// The action, such as `endpoint.create`.
    pub action: String,
    /// The id of the changed object.
    pub object: Uuid,
    /// The changed fields; secrets are named but not shown.
    pub changes: Value,
}
