//! Scopes: what a key may be used for.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// One thing a key may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Post events.
    EventsWrite,
    /// Read events, their deliveries, and dead letters.
    EventsRead,
    /// Read and change endpoints, and have webhooks sent again.
    EndpointsManage,
    /// Read and change the organisation's keys, and read what was changed by whom.
    KeysManage,
    /// An operator's: read organisations, keys and the audit log.
    OperatorRead,
    /// An operator's: change organisations and keys.
    OperatorWrite,
}

/// A set of scopes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scopes(u8);

/// The text names something that is no scope.
#[derive(Debug, thiserror::Error)]
#[error(
    "is no scope; those of organisations are {}, those of operators {}",
    Scopes::TENANT,
    Scopes::OPERATOR
)]
pub struct UnknownScope;

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 6] = [
        Self::EventsWrite,
        Self::EventsRead,
        Self::EndpointsManage,
        Self::KeysManage,
        Self::OperatorRead,
        Self::OperatorWrite,
    ];

    /// Its name, as in `events:write`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventsWrite => "events:write",
            Self::EventsRead => "events:read",
            Self::EndpointsManage => "endpoints:manage",
            Self::KeysManage => "keys:manage",
            Self::OperatorRead => "operator:read",
            Self::OperatorWrite => "operator:write",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(UnknownScope)
    }
}

impl Scopes {
    /// None.
    pub const NONE: Self = Self(0);
    /// All that an organisation's key may have.
    pub const TENANT: Self = Self(
        Scope::EventsWrite.bit()
            | Scope::EventsRead.bit()
            | Scope::EndpointsManage.bit()
            | Scope::KeysManage.bit(),
    );
    /// All that an operator's key may have.
    pub const OPERATOR: Self = Self(Scope::OperatorRead.bit() | Scope::OperatorWrite.bit());

    /// The set of this one scope.
    pub const fn of(scope: Scope) -> Self {
        Self(scope.bit())
    }

    /// This set, and `scope`.
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | scope.bit())
    }

    /// Whether every scope of `other` is among these.
    pub const fn include(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The scopes, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.include(Self::of(*scope)))
    }
}

/// With commas between them, as the command line takes them and the store keeps them.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
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
    fn scopes_go_there_and_back_and_know_what_they_include() {
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
