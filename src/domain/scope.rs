//! Scopes: the permissions of an API key.

use std::fmt;
use std::str::FromStr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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
    /// Read endpoints, without what may be a credential.
    #[strum(serialize = "endpoints:read")]
    EndpointsRead,
    /// Read and change endpoints, and request redeliveries. Includes [`Self::EndpointsRead`].
    #[strum(serialize = "endpoints:manage")]
    EndpointsManage,
    /// Read the organisation's keys and its audit log.
    #[strum(serialize = "keys:read")]
    KeysRead,
    /// Read and change the organisation's keys, and read its audit log. Includes [`Self::KeysRead`].
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
    /// Operators: look into an organisation by the console, only reading. No key has it unless it was given by name.
    #[strum(serialize = "operator:impersonate")]
    OperatorImpersonate,
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u16);

/// The text is not a scope.
#[derive(Debug, thiserror::Error)]
#[error(
    "is not a scope; scopes of organisations are {}, scopes of operators {}",
    Scopes::TENANT_ALL,
    Scopes::OPERATOR_ALL
)]
pub struct UnknownScope;

impl Scope {
    /// Every scope.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// Its name, such as `events:write`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

fn unknown_scope(_: &str) -> UnknownScope {
    UnknownScope
}

impl Scopes {
    /// The empty set.
    pub const NONE: Self = Self(0);
    /// All that a key of an organisation may do. It names no scope that another one includes, so that servers of an
    /// earlier version, which do not know those, read the keys that have it.
    pub const TENANT: Self = Self(
        Scope::EventsWrite.bit()
            | Scope::EventsRead.bit()
            | Scope::InboxConsume.bit()
            | Scope::EndpointsManage.bit()
            | Scope::KeysManage.bit()
            | Scope::DataErase.bit(),
    );
    /// Every scope that a key of an organisation may have, also those that another one includes.
    pub const TENANT_ALL: Self = Self::TENANT.with_included();
    /// What an operator's key may do unless its scopes are named.
    pub const OPERATOR: Self = Self(Scope::OperatorRead.bit() | Scope::OperatorWrite.bit());
    /// Every scope that an operator's key may have.
    pub const OPERATOR_ALL: Self = Self::OPERATOR.with(Scope::OperatorImpersonate);

    /// The set with one scope.
    pub const fn of(scope: Scope) -> Self {
        Self(scope.bit())
    }

    /// This set plus `scope`.
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// The set without one scope.
    #[must_use]
    pub const fn without(self, scope: Scope) -> Self {
        Self(self.0 & !scope.bit())
    }

    /// Whether this set allows all that `other` does: it has each of its scopes, or one that includes it.
    pub const fn include(self, other: Self) -> bool {
        self.expanded() & other.0 == other.0
    }

    /// This set with the scopes that its scopes include.
    #[must_use]
    pub const fn with_included(self) -> Self {
        Self(self.expanded())
    }

    /// The bits of this set, and of the scopes that its scopes include.
    const fn expanded(self) -> u16 {
        let mut bits = self.0;
        if bits & Scope::EndpointsManage.bit() != 0 {
            bits |= Scope::EndpointsRead.bit();
        }
        if bits & Scope::KeysManage.bit() != 0 {
            bits |= Scope::KeysRead.bit();
        }
        bits
    }

    /// What of `other` this set allows, too.
    #[must_use]
    pub const fn of_those(self, other: Self) -> Self {
        Self(self.expanded() & other.0)
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.0 & scope.bit() != 0)
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

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let add = |all: Self, name: String| Ok(all.with(name.parse().map_err(D::Error::custom)?));
        names.into_iter().try_fold(Self::NONE, add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_survive_a_round_trip_and_know_what_they_include() {
        for scopes in [
            Scopes::TENANT,
            Scopes::TENANT_ALL,
            Scopes::OPERATOR_ALL,
            Scopes::of(Scope::EventsRead),
        ] {
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

    #[test]
    fn managing_includes_reading_and_not_the_other_way_round() {
        for (manage, read) in
            [(Scope::EndpointsManage, Scope::EndpointsRead), (Scope::KeysManage, Scope::KeysRead)]
        {
            let (manage, read) = (Scopes::of(manage), Scopes::of(read));
            assert!(manage.include(read) && !read.include(manage));
            assert!(Scopes::TENANT.include(read) && Scopes::TENANT_ALL.include(read));
            // It is shown and stored as it was given.
            assert_eq!(manage.to_string().parse::<Scopes>().unwrap(), manage);
            assert!(!manage.to_string().contains("read"));
        }
        let all = "events:write,events:read,inbox:consume,endpoints:manage,keys:manage,data:erase";
        assert_eq!(Scopes::TENANT.to_string(), all, "as earlier versions know it");
        assert!(Scopes::TENANT.include(Scopes::TENANT_ALL));
    }
}
