//! Scopes: the permissions of an API key.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use strum::{EnumString, IntoStaticStr, VariantArray};

/// One permission of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, EnumString, IntoStaticStr, VariantArray)]
#[strum(parse_err_ty = UnknownScope, parse_err_fn = unknown_scope)]
pub enum Scope {
    /// Post events.
    #[strum(serialize = "events:write")]
    EventsWrite,
    /// Read events, their deliveries, and dead letters.
    #[strum(serialize = "events:read")]
    EventsRead,
    /// Fetch events from inboxes, and settle them.
    #[strum(serialize = "inbox:consume")]
    InboxConsume,
    /// Read and change endpoints, and request redeliveries.
    #[strum(serialize = "endpoints:manage")]
    EndpointsManage,
    /// Read and change the organisation's keys, and read its audit log.
    #[strum(serialize = "keys:manage")]
    KeysManage,
    /// Erase events and what there is of an account, for good, and follow that. Not part of posting or reading, so that
    /// a key which leaks there deletes nothing.
    #[strum(serialize = "data:erase")]
    DataErase,
    /// Operators: read organisations, keys and the audit log.
    #[strum(serialize = "operator:read")]
    OperatorRead,
    /// Operators: change organisations and keys.
    #[strum(serialize = "operator:write")]
    OperatorWrite,
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u8);

/// The text is not a scope.
#[derive(Debug, thiserror::Error)]
#[error(
    "is not a scope; scopes of organisations are {}, scopes of operators {}",
    Scopes::TENANT,
    Scopes::OPERATOR
)]
pub struct UnknownScope;

impl Scope {
    /// Every scope.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name, such as `events:write`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

fn unknown_scope(_: &str) -> UnknownScope {
    UnknownScope
}

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// Every scope that a key of an organisation may have.
    pub const TENANT: Self = Self(
        Scope::EventsWrite.bit()
            | Scope::EventsRead.bit()
            | Scope::InboxConsume.bit()
            | Scope::EndpointsManage.bit()
            | Scope::KeysManage.bit()
            | Scope::DataErase.bit(),
    );
    /// Every scope that an operator's key may have.
    pub const OPERATOR: Self = Self(Scope::OperatorRead.bit() | Scope::OperatorWrite.bit());

    /// The set with one scope.
    pub const fn of(scope: Scope) -> Self {
        Self(scope.bit())
    }

    /// This set plus `scope`.
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether this set includes every scope of `other`.
    pub const fn include(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.include(Self::of(*scope)))
    }
}

/// Separated by commas, the form of the command line and the store.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", scope.as_str())?;
        }
        Ok(())
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        text.split(',').try_fold(Self::NONE, |all, scope| Ok(all.with(scope.trim().parse()?)))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_survive_a_round_trip_and_know_what_they_include() {
        for scopes in [Scopes::TENANT, Scopes::OPERATOR, Scopes::of(Scope::EventsRead)] {
            assert_eq!(scopes.to_string().parse::<Scopes>().unwrap(), scopes);
        }
        assert_eq!(Scopes::OPERATOR.to_string(), "operator:read,operator:write");
        assert!("events:write,root".parse::<Scopes>().is_err());
        assert!("".parse::<Scopes>().is_err());
        let read = Scopes::of(Scope::EventsRead);
        assert!(Scopes::TENANT.include(read) && !read.include(Scopes::TENANT));
        assert!(!Scopes::OPERATOR.include(read));
        assert!(Scopes::NONE.is_empty() && !read.is_empty());
    }
}
