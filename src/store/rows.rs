//! Turns rows into domain values, for both backends, and values into what both can store.
//!
//! Columns are read by place, in the order that each reader below names; every SELECT spells them
//! in that order. A value that this program never wrote is [`StoreError::Corrupt`].

use std::borrow::Cow;
use std::str::FromStr;

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use time::OffsetDateTime;
use uuid::Uuid;

use super::crypto::{self, Keyring, SealContext, SecretColumns};
use super::{
    ChangeMark, KeyChange, KeyChanges, MissingKey, RESEALED_PER_STEP, Resealed, StoreError,
};
use crate::domain::{
    ApiKey, ApiKeyId, Cursor, DeliveryPolicy, Endpoint, EndpointId, Event, EventId,
    EventTypeFilter, KeyHash, Org, OrgDeletion, OrgId, OrgLimit, OrgLimits, PageRequest, Role,
    Timestamp, TraceId,
};

/// A row of either driver, its columns read by place.
pub(super) trait Columns {
    /// A UUID.
    fn uuid(&self, column: usize) -> Result<Uuid, StoreError>;
    /// A UUID or NULL.
    fn uuid_opt(&self, column: usize) -> Result<Option<Uuid>, StoreError>;
    /// Text.
    fn text(&self, column: usize) -> Result<String, StoreError>;
    /// Text or NULL.
    fn text_opt(&self, column: usize) -> Result<Option<String>, StoreError>;
    /// Bytes.
    fn bytes(&self, column: usize) -> Result<Vec<u8>, StoreError>;
    /// A moment.
    fn moment(&self, column: usize) -> Result<Timestamp, StoreError>;
    /// A moment or NULL.
    fn moment_opt(&self, column: usize) -> Result<Option<Timestamp>, StoreError>;
    /// A number.
    fn number(&self, column: usize) -> Result<i64, StoreError>;
    /// A number or NULL.
    fn number_opt(&self, column: usize) -> Result<Option<i64>, StoreError>;
    /// True or false.
    fn flag(&self, column: usize) -> Result<bool, StoreError>;
}

macro_rules! columns {
    ($row:ty, $moment:ty, $from:expr) => {
        impl Columns for $row {
            fn uuid(&self, column: usize) -> Result<Uuid, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn uuid_opt(&self, column: usize) -> Result<Option<Uuid>, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn text(&self, column: usize) -> Result<String, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn text_opt(&self, column: usize) -> Result<Option<String>, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn bytes(&self, column: usize) -> Result<Vec<u8>, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn moment(&self, column: usize) -> Result<Timestamp, StoreError> {
                Ok($from(self.try_get::<$moment, _>(column)?))
            }
            fn moment_opt(&self, column: usize) -> Result<Option<Timestamp>, StoreError> {
                Ok(self.try_get::<Option<$moment>, _>(column)?.map($from))
            }
            fn number(&self, column: usize) -> Result<i64, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn number_opt(&self, column: usize) -> Result<Option<i64>, StoreError> {
                Ok(self.try_get(column)?)
            }
            fn flag(&self, column: usize) -> Result<bool, StoreError> {
                Ok(self.try_get(column)?)
            }
        }
    };
}

columns!(SqliteRow, i64, Timestamp::from_micros);
columns!(PgRow, OffsetDateTime, Timestamp::from);

/// The columns that [`org`] reads, in its order.
macro_rules! org_columns {
    () => {
        "id, name, rate_limit_per_minute, burst, bytes_per_minute, events_per_month, endpoints_max, \
         keys_max, payload_bytes_max, created_at, suspended_at, deleting_since, deleted_rows, \
         deleted_at"
    };
}
pub(super) use org_columns;

/// Reads [`org_columns`].
pub(super) fn org(row: &impl Columns) -> Result<Org, StoreError> {
    let mut limits = OrgLimits::default();
    for (place, limit) in OrgLimit::ALL.into_iter().enumerate() {
        let value = row.number_opt(2 + place)?.map(|n| fits(limit.name(), n)).transpose()?;
        limits = limits.with(limit, value);
    }
    let after = 2 + OrgLimit::ALL.len();
    let deletion = match row.moment_opt(after + 2)? {
        Some(since) => Some(OrgDeletion {
            since,
            rows: fits("deleted_rows", row.number(after + 3)?)?,
            done_at: row.moment_opt(after + 4)?,
        }),
        None => None,
    };
    Ok(Org {
        id: OrgId::from_uuid(row.uuid(0)?),
        name: row.text(1)?,
        limits,
        created_at: row.moment(after)?,
        suspended_at: row.moment_opt(after + 1)?,
        deletion,
    })
}

/// The columns that [`key`] reads, in its order.
macro_rules! key_columns {
    () => {
        "id, org_id, name, hash, created_at, expires_at, scopes, revoked_at, last_used_at, \
         replaced_by"
    };
}
pub(super) use key_columns;

/// Reads [`key_columns`].
pub(super) fn key(row: &impl Columns) -> Result<ApiKey, StoreError> {
    let role = row.uuid_opt(1)?.map_or(Role::Operator, |org| Role::Tenant(OrgId::from_uuid(org)));
    let scopes = row.text_opt(6)?.map(|text| parsed("scopes", &text)).transpose()?;
    Ok(ApiKey {
        id: ApiKeyId::from_uuid(row.uuid(0)?),
        role,
        name: row.text(2)?,
        scopes: scopes.unwrap_or(role.scopes()),
        hash: KeyHash::new(row.text(3)?),
        created_at: row.moment(4)?,
        expires_at: row.moment_opt(5)?,
        revoked_at: row.moment_opt(7)?,
        last_used_at: row.moment_opt(8)?,
        replaced_by: row.uuid_opt(9)?.map(ApiKeyId::from_uuid),
    })
}

/// The columns that [`endpoint`] reads, in its order, each after `$of` (as in `p.`).
macro_rules! endpoint_columns {
    () => {
        $crate::store::rows::endpoint_columns!("")
    };
    ($of:literal) => {
        $crate::store::rows::columns_of!(
            $of;
            id org_id url event_types description secret disabled_reason created_at updated_at
            earlier_secrets headers max_concurrency rate_limit_per_second retry_schedule ordered
            failing_since
        )
    };
}
/// Names with commas between them, each after `$of`.
macro_rules! columns_of {
    ($of:literal; $first:ident $($name:ident)*) => {
        concat!($of, stringify!($first) $(, ", ", $of, stringify!($name))*)
    };
}
pub(super) use columns_of;
pub(super) use endpoint_columns;

/// Reads [`endpoint_columns`], starting at `at`. What the keyring does not open is left unreadable
/// within the endpoint: it must not keep anybody from the other rows.
pub(super) fn endpoint(
    row: &impl Columns,
    at: usize,
    keyring: &Keyring,
) -> Result<Endpoint, StoreError> {
    let id = EndpointId::from_uuid(row.uuid(at)?);
    let org_id = OrgId::from_uuid(row.uuid(at + 1)?);
    let place = SealContext { org: org_id, endpoint: id };
    let sealed = SecretColumns {
        secret: row.text(at + 5)?,
        earlier_secrets: row.text_opt(at + 9)?,
        headers: row.text_opt(at + 10)?,
    };
    Ok(Endpoint {
        id,
        org_id,
        url: parsed("url", &row.text(at + 2)?)?,
        event_types: parsed("event_types", &row.text(at + 3)?)?,
        description: row.text_opt(at + 4)?,
        secrets: keyring.open_secrets(place, &sealed),
        headers: keyring.open_headers(place, &sealed),
        disabled_reason: row.text_opt(at + 6)?,
        created_at: row.moment(at + 7)?,
        updated_at: row.moment(at + 8)?,
        policy: policy(row, at + 11)?,
        failing_since: row.moment_opt(at + 15)?,
    })
}

/// Reads `max_concurrency, rate_limit_per_second, retry_schedule, ordered`, starting at `at`.
fn policy(row: &impl Columns, at: usize) -> Result<DeliveryPolicy, StoreError> {
    let number = |column, name| row.number_opt(column)?.map(|n| fits(name, n)).transpose();
    let schedule = row.text_opt(at + 2)?;
    Ok(DeliveryPolicy {
        max_concurrency: number(at, "max_concurrency")?,
        rate_limit_per_second: number(at + 1, "rate_limit_per_second")?,
        retry_schedule: schedule.map(|text| parsed("retry_schedule", &text)).transpose()?,
        ordered: row.flag(at + 3)?,
    })
}

/// Reads `id, org_id, secret, earlier_secrets, headers` of a step of encrypting, and says what is to
/// be written.
pub(super) fn reseal(
    rows: &[impl Columns],
    keyring: &Keyring,
) -> Result<(Resealed, Vec<(EndpointId, SecretColumns)>), StoreError> {
    let mut resealed = Resealed { endpoints: rows.len(), ..Resealed::default() };
    let mut changes = Vec::new();
    for row in rows {
        let id = EndpointId::from_uuid(row.uuid(0)?);
        let place = SealContext { org: OrgId::from_uuid(row.uuid(1)?), endpoint: id };
        let columns = SecretColumns {
            secret: row.text(2)?,
            earlier_secrets: row.text_opt(3)?,
            headers: row.text_opt(4)?,
        };
        match keyring.reseal(place, &columns)? {
            Ok(Some(columns)) => changes.push((id, columns)),
            Ok(None) => {}
            Err(_) => resealed.unreadable.push(id),
        }
        resealed.next = Some(id);
    }
    resealed.encrypted = changes.len();
    if rows.len() < usize::try_from(RESEALED_PER_STEP).unwrap_or(usize::MAX) {
        resealed.next = None;
    }
    Ok((resealed, changes))
}

/// Reads the start of sealed texts and how many there are, and keeps what the keyring lacks.
pub(super) fn missing_keys(
    rows: &[impl Columns],
    keyring: &Keyring,
) -> Result<Vec<MissingKey>, StoreError> {
    let mut missing = Vec::new();
    for row in rows {
        let head = row.text(0)?;
        if !keyring.knows(&head) {
            missing.push(MissingKey {
                id: crypto::key_id_of(&head).to_owned(),
                texts: row.number(1)?,
            });
        }
    }
    Ok(missing)
}

/// Reads `id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at, received_at,
/// trace_id`, starting at `at`.
pub(super) fn event(row: &impl Columns, at: usize) -> Result<Event, StoreError> {
    Ok(Event {
        id: EventId::from_uuid(row.uuid(at)?),
        org_id: OrgId::from_uuid(row.uuid(at + 1)?),
        event_type: parsed("event_type", &row.text(at + 2)?)?,
        payload: row.bytes(at + 3)?.into(),
        dedup_id: row.text_opt(at + 4)?,
        account_id: row.text_opt(at + 5)?,
        user_id: row.text_opt(at + 6)?,
        occurred_at: row.moment_opt(at + 7)?,
        received_at: row.moment(at + 8)?,
        trace_id: TraceId::from_bytes(row.uuid(at + 9)?.into_bytes()),
    })
}

/// Reads rows of `id, change_number`, one of which has no id and tells where the next look goes on.
pub(super) fn key_changes(rows: &[impl Columns]) -> Result<KeyChanges, StoreError> {
    let (mut changes, mut mark) = (Vec::new(), None);
    for row in rows {
        let number = row.number(1)?;
        match row.uuid_opt(0)? {
            Some(id) => changes.push(KeyChange { key: ApiKeyId::from_uuid(id), number }),
            None => mark = Some(ChangeMark(number)),
        }
    }
    let mark = mark.ok_or_else(|| StoreError::Corrupt("changes are not counted".to_owned()))?;
    Ok(KeyChanges { changes, mark })
}

/// Reads every row with `read`.
pub(super) fn all<R, T>(
    rows: &[R],
    read: impl Fn(&R) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect()
}

/// After every moment that is ever stored: 9999-12-31T23:59:59Z, the last second that RFC 3339 and
/// both backends can write.
pub(super) const END_OF_TIME: Timestamp = Timestamp::from_micros(253_402_300_799_000_000);

/// Before every moment that is ever stored: the year 0 begins, the first that RFC 3339 can write.
pub(super) const START_OF_TIME: Timestamp = Timestamp::from_micros(-62_167_219_200_000_000);

/// The place a page starts after; the first page starts after a place newer than every row, so that
/// one statement serves both.
pub(super) fn place(page: PageRequest) -> Cursor {
    let newest = Cursor { at: END_OF_TIME, id: Uuid::max() };
    let cursor = page.after.unwrap_or(newest);
    Cursor { at: cursor.at.clamp(START_OF_TIME, END_OF_TIME), id: cursor.id }
}

/// What an event's type must be, and what it must start with, for a filter: two parameters.
pub(super) fn type_wanted(filter: Option<&EventTypeFilter>) -> (Option<&str>, Option<&str>) {
    match filter {
        None | Some(EventTypeFilter::All) => (None, None),
        Some(EventTypeFilter::Exact(exact)) => (Some(exact.as_str()), None),
        Some(EventTypeFilter::Prefix(prefix)) => (None, Some(prefix.as_str())),
    }
}

/// Rows to fetch for a page: one more than it shows proves that more follow.
pub(super) fn fetch_limit(page: PageRequest) -> i64 {
    i64::from(page.limit) + 1
}

/// Text that both backends can store: PostgreSQL knows no NUL (its manual, section 8.3), and words
/// of receivers and of errors may carry one.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

pub(super) fn parsed<T: FromStr>(column: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(format!("the text of a column {column}")))
}

pub(super) fn fits<T: TryFrom<i64>>(column: &str, number: i64) -> Result<T, StoreError> {
    T::try_from(number).map_err(|_| StoreError::Corrupt(format!("{number} in a column {column}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_time_are_what_they_say() {
        assert_eq!(END_OF_TIME.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(START_OF_TIME.to_string(), "0000-01-01T00:00:00Z");
    }

    #[test]
    fn nul_bytes_do_not_reach_the_store() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        assert!(matches!(storable("ab"), Cow::Borrowed("ab")));
    }
}
