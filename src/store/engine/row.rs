//! Rows of an answer, from either engine, read column by column.

use std::str::FromStr;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{
    ApiKeyId, DeadLetterId, DeliveryId, EndpointId, ErasureId, EventId, OrgId, ReplayId, Timestamp,
};
use crate::store::{Result, StoreError};

/// A row. A value that this program never wrote is [`StoreError::Corrupt`].
pub(crate) enum Row {
    /// SQLite's.
    Sqlite(SqliteRow),
    /// PostgreSQL's.
    Postgres(PgRow),
}

impl Row {
    /// The value of a column that has one.
    pub(crate) fn get<T: Column>(&self, column: &str) -> Result<T> {
        self.get_opt(column)?.ok_or_else(|| corrupt("NULL", column))
    }

    /// The value of a column, or `None` for NULL.
    pub(crate) fn get_opt<T: Column>(&self, column: &str) -> Result<Option<T>> {
        T::read(self, column)
    }

    /// The value that the text of a column spells.
    pub(crate) fn parse<T: FromStr>(&self, column: &str) -> Result<T> {
        self.parse_opt(column)?.ok_or_else(|| corrupt("NULL", column))
    }

    /// The value that the text of a column spells, or `None` for NULL.
    pub(crate) fn parse_opt<T: FromStr>(&self, column: &str) -> Result<Option<T>> {
        let text: Option<String> = self.get_opt(column)?;
        let parsed = text.map(|text| text.parse().map_err(|_| corrupt("malformed text", column)));
        parsed.transpose()
    }
}

fn corrupt(what: &str, column: &str) -> StoreError {
    StoreError::Corrupt(format!("{what} in a column {column}"))
}

/// A type that a column can be read as.
pub(crate) trait Column: Sized {
    /// The value of the column of this name.
    fn read(row: &Row, column: &str) -> Result<Option<Self>>;
}

/// Types that both drivers read.
macro_rules! read_as_is {
    ($($type:ty),+) => {
        $(impl Column for $type {
            fn read(row: &Row, column: &str) -> Result<Option<Self>> {
                Ok(match row {
                    Row::Sqlite(row) => row.try_get(column)?,
                    Row::Postgres(row) => row.try_get(column)?,
                })
            }
        })+
    };
}
read_as_is!(Uuid, String, Vec<u8>, i64, bool);

impl Column for Timestamp {
    fn read(row: &Row, column: &str) -> Result<Option<Self>> {
        Ok(match row {
            Row::Sqlite(row) => row.try_get::<Option<i64>, _>(column)?.map(Self::from_micros),
            Row::Postgres(row) => row.try_get::<Option<OffsetDateTime>, _>(column)?.map(Self::from),
        })
    }
}

/// Ids, which are UUIDs.
macro_rules! read_as_uuid {
    ($($id:ty),+) => {
        $(impl Column for $id {
            fn read(row: &Row, column: &str) -> Result<Option<Self>> {
                Ok(Uuid::read(row, column)?.map(Self::from_uuid))
            }
        })+
    };
}
read_as_uuid!(ApiKeyId, DeadLetterId, DeliveryId, EndpointId, ErasureId, EventId, OrgId, ReplayId);

/// Whole numbers that are stored as 64-bit ones.
macro_rules! read_as_int {
    ($($int:ty),+) => {
        $(impl Column for $int {
            fn read(row: &Row, column: &str) -> Result<Option<Self>> {
                let number = i64::read(row, column)?;
                let fitting = number.map(|number| {
                    Self::try_from(number).map_err(|_| corrupt(&number.to_string(), column))
                });
                fitting.transpose()
            }
        })+
    };
}
read_as_int!(u16, u32, u64, usize);
