//! Parameters of a statement, for either engine.

use std::borrow::Cow;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use time::OffsetDateTime;
use uuid::Uuid;

use super::id_list;
use crate::domain::{
    ApiKeyId, DeadLetterId, DeliveryId, EndpointId, ErasureId, EventId, OrgId, ReplayId, Timestamp,
};

/// A parameter. A missing one has its type all the same, which PostgreSQL asks for.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    /// A UUID.
    Uuid(Option<Uuid>),
    /// UUIDs, for [`Dialect::any`](super::Dialect::any).
    Ids(Vec<Uuid>),
    /// Whole numbers: a JSON array in SQLite, an array in PostgreSQL.
    Ints(Vec<i64>),
    /// Text.
    Text(Option<Cow<'a, str>>),
    /// Bytes.
    Bytes(Option<&'a [u8]>),
    /// A whole number.
    Int(Option<i64>),
    /// True or false.
    Flag(Option<bool>),
    /// A timestamp: microseconds in SQLite, `timestamptz` in PostgreSQL.
    Time(Option<Timestamp>),
}

/// The parameters `$1`, `$2`, … of a statement.
macro_rules! args {
    ($($value:expr),* $(,)?) => {
        vec![$($crate::store::engine::Value::from($value)),*]
    };
}
pub(crate) use args;

impl Value<'_> {
    /// No value, of the same type. A list stays one.
    pub(crate) const fn null(&self) -> Value<'static> {
        match self {
            Self::Uuid(_) => Value::Uuid(None),
            Self::Ids(_) => Value::Ids(Vec::new()),
            Self::Ints(_) => Value::Ints(Vec::new()),
            Self::Text(_) => Value::Text(None),
            Self::Bytes(_) => Value::Bytes(None),
            Self::Int(_) => Value::Int(None),
            Self::Flag(_) => Value::Flag(None),
            Self::Time(_) => Value::Time(None),
        }
    }

    pub(super) fn add_to_sqlite(self, arguments: &mut SqliteArguments) -> Result<(), BoxDynError> {
        match self {
            Self::Uuid(uuid) => arguments.add(uuid),
            Self::Ids(ids) => arguments.add(id_list(ids)),
            Self::Ints(ints) => arguments.add(format!("{ints:?}")),
            Self::Text(text) => arguments.add(text.map(Cow::into_owned)),
            Self::Bytes(bytes) => arguments.add(bytes),
            Self::Int(int) => arguments.add(int),
            Self::Flag(flag) => arguments.add(flag),
            Self::Time(at) => arguments.add(at.map(Timestamp::micros)),
        }
    }

    pub(super) fn add_to_postgres(self, arguments: &mut PgArguments) -> Result<(), BoxDynError> {
        match self {
            Self::Uuid(uuid) => arguments.add(uuid),
            Self::Ids(ids) => arguments.add(ids),
            Self::Ints(ints) => arguments.add(ints),
            Self::Text(text) => arguments.add(text),
            Self::Bytes(bytes) => arguments.add(bytes),
            Self::Int(int) => arguments.add(int),
            Self::Flag(flag) => arguments.add(flag),
            Self::Time(at) => arguments.add(at.map(OffsetDateTime::from)),
        }
    }
}

/// Conversions from a type and from an `Option` of it.
macro_rules! from {
    ($($type:ty: $variant:ident($of:expr);)+) => {
        $(impl<'a> From<$type> for Value<'a> {
            fn from(value: $type) -> Self {
                Self::$variant(Some($of(value)))
            }
        }

        impl<'a> From<Option<$type>> for Value<'a> {
            fn from(value: Option<$type>) -> Self {
                Self::$variant(value.map($of))
            }
        })+
    };
}

from! {
    Uuid: Uuid(|uuid| uuid);
    ApiKeyId: Uuid(ApiKeyId::uuid);
    DeadLetterId: Uuid(DeadLetterId::uuid);
    DeliveryId: Uuid(DeliveryId::uuid);
    EndpointId: Uuid(EndpointId::uuid);
    ErasureId: Uuid(ErasureId::uuid);
    EventId: Uuid(EventId::uuid);
    OrgId: Uuid(OrgId::uuid);
    ReplayId: Uuid(ReplayId::uuid);
    String: Text(Cow::Owned);
    &'a str: Text(Cow::Borrowed);
    &'a String: Text(|text: &'a String| Cow::Borrowed(text.as_str()));
    Cow<'a, str>: Text(|text| text);
    &'a [u8]: Bytes(|bytes| bytes);
    i64: Int(|int| int);
    u32: Int(i64::from);
    // No count here comes near the end of what an i64 holds.
    u64: Int(|int| i64::try_from(int).unwrap_or(i64::MAX));
    usize: Int(|int| i64::try_from(int).unwrap_or(i64::MAX));
    bool: Flag(|flag| flag);
    Timestamp: Time(|at| at);
}

impl From<Vec<i64>> for Value<'_> {
    fn from(ints: Vec<i64>) -> Self {
        Self::Ints(ints)
    }
}

impl From<Vec<Uuid>> for Value<'_> {
    fn from(ids: Vec<Uuid>) -> Self {
        Self::Ids(ids)
    }
}
