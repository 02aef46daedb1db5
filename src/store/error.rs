//! The errors of the store: tells transient database errors from rejected content.
//!
//! An error that is not known to come from the content counts as transient: treating it as a rejection
//! would quarantine good events, while the opposite mistake only retries.
//!
//! PostgreSQL's SQLSTATE classes (appendix A of its manual,
//! <https://www.postgresql.org/docs/current/errcodes-appendix.html>) that reject the content: 22 data
//! exception, 23 integrity constraint violation, 54 program limit exceeded, and P0001, which a
//! trigger raises. Everything else is transient, such as 08 connection exception, 25 read-only
//! transaction, 40 serialization failure and deadlock, 42 a schema that is not migrated yet, 53
//! insufficient resources, 55 lock not available, 57 operator intervention, 58 system error.
//!
//! SQLite's result codes (<https://www.sqlite.org/rescode.html>) that reject the content: TOOBIG,
//! CONSTRAINT and MISMATCH. Everything else is transient, such as BUSY, LOCKED, READONLY, IOERR,
//! FULL, CANTOPEN, and also CORRUPT and NOTADB: another copy of the file may do.
//!
//! Of the transient errors only those on a list mean the store as a whole ([`StoreError::is_connection`]). Any other one
//! may come from a damaged page, or from a table that is missing for everybody: the code does not tell. So a caller with
//! a batch tries parts of it, and gives nothing up before the store has taken something else since.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Error;
use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError as StepError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::runtime::Stopwatch;

/// The result of a store call.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Why a store call failed.
#[derive(thiserror::Error)]
pub enum StoreError {
    /// Transient: no connection, no disk, a lock held too long, a lost race. The same call may
    /// succeed later.
    #[error("the store is unavailable: {}", PlainError(.0))]
    Unavailable(#[source] Error),
    /// A read took longer than its time limit, `READ_TIMEOUT`.
    #[error("the read took longer than its time limit")]
    ReadTimedOut,
    /// The row is not as [`Store::only_if`](super::Store::only_if) requires; nothing was changed.
    #[error("somebody has changed it since it was read")]
    Changed,
    /// Permanent: the database rejects this content every time.
    #[error("the store refused the content: {}", PlainError(.0))]
    Refused(#[source] Error),
    /// A row holds a value that this version of the program never wrote.
    #[error("the store holds a value that cannot be read: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The database does not answer. For callers with a time limit of their own: a connection to a host that is gone
    /// may wait for minutes.
    pub fn no_answer() -> Self {
        Error::PoolTimedOut.into()
    }

    /// Whether the store as a whole cannot be reached or written to, so that every other call fails, too. `false`
    /// when perhaps only this call did: its content was refused, its statement took too long, waited too long for a
    /// lock or lost a deadlock, a page that it needs is damaged, or a table is missing. A caller with a batch can then
    /// try a part of it.
    pub fn is_connection(&self) -> bool {
        match self {
            Self::Unavailable(Error::Database(fault)) => blames_store(fault.as_ref()),
            Self::Unavailable(_) => true,
            Self::ReadTimedOut | Self::Changed | Self::Refused(_) | Self::Corrupt(_) => false,
        }
    }

    /// Whether the database has ended the statement because it took too long, or because it was asked to.
    pub(super) fn is_query_cancelled(&self) -> bool {
        self.sqlstate() == Some("57014")
    }

    /// Whether the database does not offer a function, or not to this role: `42501`, `42883` and `0A000`.
    pub(super) fn is_not_offered(&self) -> bool {
        matches!(self.sqlstate(), Some("42501" | "42883" | "0A000"))
    }

    /// Whether the connection is lost, so that another one may do: class 08, a server that shuts down or starts
    /// (57P01 to 57P03), and errors of the connection itself.
    pub(super) fn is_lost_connection(&self) -> bool {
        match self {
            Self::Unavailable(
                Error::Io(_) | Error::Protocol(_) | Error::Tls(_) | Error::WorkerCrashed,
            ) => true,
            _ => self.sqlstate().is_some_and(|code| {
                code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03")
            }),
        }
    }

    /// PostgreSQL's code of a transient error.
    fn sqlstate(&self) -> Option<&str> {
        let Self::Unavailable(Error::Database(fault)) = self else { return None };
        fault.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
    }
}

impl StoreError {
    /// Whether the database is away for a while: it stops, starts, fails over, is locked by another process, has no
    /// space on its disk, or cannot be reached. A server that starts waits for it. `false` for what only a person mends, such as a wrong
    /// password, and for what is wrong with a call.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Unavailable(error) => is_away(error),
            Self::ReadTimedOut | Self::Changed | Self::Refused(_) | Self::Corrupt(_) => false,
        }
    }
}

/// Whether the error means that the database is away for a while.
pub(super) fn is_away(error: &Error) -> bool {
    match error {
        Error::Database(fault) => is_transient(fault.as_ref()),
        Error::Io(_) | Error::PoolTimedOut | Error::WorkerCrashed | Error::Protocol(_) => true,
        _ => false,
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, error) = match self {
            Self::Unavailable(error) => ("Unavailable", error),
            Self::Refused(error) => ("Refused", error),
            Self::ReadTimedOut => return f.write_str("ReadTimedOut"),
            Self::Changed => return f.write_str("Changed"),
            Self::Corrupt(text) => return f.debug_tuple("Corrupt").field(text).finish(),
        };
        let Error::Database(fault) = error else {
            return f.debug_tuple(name).field(error).finish();
        };
        let Some(fault) = fault.try_downcast_ref::<PgDatabaseError>() else {
            return f.debug_tuple(name).field(error).finish();
        };
        // Without the detail, which may quote a row, and the place in PostgreSQL's source.
        f.debug_struct(name)
            .field("code", &fault.code())
            .field("message", &fault.message())
            .field("table", &fault.table())
            .field("constraint", &fault.constraint())
            .finish()
    }
}

/// An error as people read it: PostgreSQL's without the line of its own source, which sqlx adds.
pub(super) struct PlainError<'a>(pub(super) &'a Error);

impl fmt::Display for PlainError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = match self.0 {
            Error::Database(fault) => fault.try_downcast_ref::<PgDatabaseError>(),
            Error::Migrate(step) => return PlainStepError(step).fmt(f),
            _ => None,
        };
        match plain {
            Some(fault) => write!(f, "error returned from database: {}", fault.message()),
            None => self.0.fmt(f),
        }
    }
}

/// The error of a migration, as [`PlainError`].
pub(super) struct PlainStepError<'a>(pub(super) &'a StepError);

impl fmt::Display for PlainStepError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            StepError::Execute(error) => {
                write!(f, "while executing migrations: {}", PlainError(error))
            }
            StepError::ExecuteMigration(error, version) => {
                write!(f, "while executing migration {version}: {}", PlainError(error))
            }
            other => other.fmt(f),
        }
    }
}

/// When a session was last found on a database that takes no writes or does not answer, in milliseconds since
/// [`LOADED`]; 0 for never.
/// One for the process, since errors do not tell of which database they are: more connections are asked, then.
static SUSPECTED: AtomicU64 = AtomicU64::new(0);
static LOADED: LazyLock<Stopwatch> = LazyLock::new(Stopwatch::start);

/// Has every connection that is open now closed before it is used again.
pub(super) fn suspect_sessions() {
    let now = u64::try_from(LOADED.elapsed().as_millis()).unwrap_or(u64::MAX);
    SUSPECTED.store(now.saturating_add(1), Ordering::Relaxed);
}

/// Whether a connection of this age may be to a database that takes no writes or does not answer.
pub(super) fn is_suspect(age: Duration) -> bool {
    let at = SUSPECTED.load(Ordering::Relaxed);
    at > 0 && LOADED.elapsed().saturating_sub(Duration::from_millis(at)) <= age
}

/// The code of a statement that writes, on a standby or in a read-only session.
const READ_ONLY: &str = "25006";

const SQLITE_PERM: i32 = 3;
const SQLITE_BUSY: i32 = 5;
const SQLITE_LOCKED: i32 = 6;
const SQLITE_NOMEM: i32 = 7;
const SQLITE_READONLY: i32 = 8;
const SQLITE_IOERR: i32 = 10;
const SQLITE_FULL: i32 = 13;
const SQLITE_CANTOPEN: i32 = 14;
const SQLITE_PROTOCOL: i32 = 15;
const SQLITE_TOOBIG: i32 = 18;
const SQLITE_CONSTRAINT: i32 = 19;
const SQLITE_MISMATCH: i32 = 20;
const SQLITE_NOLFS: i32 = 22;
const SQLITE_NOTADB: i32 = 26;

/// Errors of input that one page or one file system entry may have: `READ`, `SHORT_READ`, `DATA` and `CORRUPTFS`.
const SQLITE_IOERR_OF_A_PAGE: [i32; 4] = [266, 522, 8202, 8458];

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        if is_read_only(&error) {
            suspect_sessions();
        }
        match &error {
            Error::Database(fault) if blames_content(fault.as_ref()) => Self::Refused(error),
            Error::Encode(_) | Error::InvalidArgument(_) => Self::Refused(error),
            Error::ColumnDecode { .. }
            | Error::Decode(_)
            | Error::ColumnNotFound(_)
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::TypeNotFound { .. }
            | Error::RowNotFound => Self::Corrupt(error.to_string()),
            // The enum is open; what is left is connections, pools, workers and the protocol.
            _ => Self::Unavailable(error),
        }
    }
}

fn is_read_only(error: &Error) -> bool {
    let Error::Database(fault) = error else { return false };
    let fault = fault.try_downcast_ref::<PgDatabaseError>();
    fault.is_some_and(|fault| fault.code() == READ_ONLY)
}

fn blames_content(fault: &dyn DatabaseError) -> bool {
    if let Some(fault) = fault.try_downcast_ref::<PgDatabaseError>() {
        return sqlstate_blames_content(fault.code());
    }
    let Some(fault) = fault.try_downcast_ref::<SqliteError>() else { return false };
    let extended = DatabaseError::code(fault).and_then(|code| code.parse::<i32>().ok());
    extended.is_some_and(sqlite_blames_content)
}

fn blames_store(fault: &dyn DatabaseError) -> bool {
    if let Some(fault) = fault.try_downcast_ref::<PgDatabaseError>() {
        return sqlstate_blames_store(fault.code());
    }
    let Some(fault) = fault.try_downcast_ref::<SqliteError>() else { return false };
    let extended = DatabaseError::code(fault).and_then(|code| code.parse::<i32>().ok());
    extended.is_some_and(sqlite_blames_store)
}

fn is_transient(fault: &dyn DatabaseError) -> bool {
    if let Some(fault) = fault.try_downcast_ref::<PgDatabaseError>() {
        return sqlstate_is_transient(fault.code());
    }
    let Some(fault) = fault.try_downcast_ref::<SqliteError>() else { return false };
    let extended = DatabaseError::code(fault).and_then(|code| code.parse::<i32>().ok());
    extended.is_some_and(sqlite_is_transient)
}

/// A file that another process has locked, a disk without space, want of descriptors or memory, and a disk that fails a
/// write or a sync. Not damage: CORRUPT, NOTADB, and an IOERR of a page. Nor READONLY and PERM, which a person mends.
fn sqlite_is_transient(extended: i32) -> bool {
    match extended & 0xff {
        SQLITE_BUSY | SQLITE_LOCKED | SQLITE_NOMEM | SQLITE_FULL | SQLITE_CANTOPEN
        | SQLITE_PROTOCOL => true,
        SQLITE_IOERR => !SQLITE_IOERR_OF_A_PAGE.contains(&extended),
        _ => false,
    }
}

/// 08 has connection exceptions, 25006 a server that is a standby, 40 lost races, 53 want of resources, 55P03 a lock
/// timeout, 57 a server that stops or starts, and a statement timeout.
fn sqlstate_is_transient(code: &str) -> bool {
    matches!(code, "25006" | "55P03")
        || ["08", "40", "53", "57"].iter().any(|class| code.starts_with(class))
}

fn sqlstate_blames_content(code: &str) -> bool {
    code == "P0001" || ["22", "23", "54"].iter().any(|class| code.starts_with(class))
}

/// 08 has connection exceptions, 25006 is a server that is a standby, 28 has logins that are refused, 3D000 is a
/// database that is missing, 53 want of resources, and 57P a server that stops or starts.
///
/// Not among them, since one row may cause them: 40 a lost deadlock, 55P03 and 57014 a lock or a statement that took too
/// long, XX a damaged page, 58 one file that cannot be read, 42 a right or a table that is missing.
fn sqlstate_blames_store(code: &str) -> bool {
    code == READ_ONLY || ["08", "28", "3D", "53", "57P"].iter().any(|class| code.starts_with(class))
}

/// Not among them, since one page may cause them: CORRUPT and some kinds of IOERR. Nor is ERROR, such as a missing table.
fn sqlite_blames_store(extended: i32) -> bool {
    match extended & 0xff {
        SQLITE_PERM | SQLITE_BUSY | SQLITE_LOCKED | SQLITE_NOMEM | SQLITE_READONLY
        | SQLITE_FULL | SQLITE_CANTOPEN | SQLITE_PROTOCOL | SQLITE_NOLFS | SQLITE_NOTADB => true,
        SQLITE_IOERR => !SQLITE_IOERR_OF_A_PAGE.contains(&extended),
        _ => false,
    }
}

/// The primary result code is the low byte of the extended one.
fn sqlite_blames_content(extended: i32) -> bool {
    matches!(extended & 0xff, SQLITE_TOOBIG | SQLITE_CONSTRAINT | SQLITE_MISMATCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_of_the_content_are_refusals() {
        for code in ["22021", "22P02", "23505", "23514", "54000", "P0001"] {
            assert!(sqlstate_blames_content(code), "{code}");
        }
        for code in ["08006", "25006", "40001", "40P01", "42P01", "53100", "55P03", "57014"] {
            assert!(!sqlstate_blames_content(code), "{code}");
        }
        for code in [18, 19, 20, 275, 1299, 1811] {
            assert!(sqlite_blames_content(code), "{code}");
        }
        for code in [1, 5, 6, 8, 10, 11, 13, 14, 26, 261, 517, 1032] {
            assert!(!sqlite_blames_content(code), "{code}");
        }
    }

    #[test]
    fn only_what_every_call_meets_means_the_store() {
        for code in ["08006", "57P01", "57P03", "25006", "28P01", "3D000", "53100", "53300"] {
            assert!(sqlstate_blames_store(code), "{code}");
        }
        let of_a_row = ["57014", "55P03", "40P01", "40001", "XX000", "XX001", "XX002", "42501"];
        for code in of_a_row.into_iter().chain(["42P01", "58030", "58P01", "0A000"]) {
            assert!(!sqlstate_blames_store(code), "{code}");
        }
        for code in [3, 5, 6, 8, 10, 13, 14, 15, 26, 261, 517, 778, 1032, 1034, 4618] {
            assert!(sqlite_blames_store(code), "{code}");
        }
        for code in [1, 9, 11, 266, 267, 522, 779, 8202, 8458] {
            assert!(!sqlite_blames_store(code), "{code}");
        }
        assert!(StoreError::from(Error::PoolTimedOut).is_connection());
        assert!(!StoreError::Corrupt(String::new()).is_connection());
    }

    #[test]
    fn server_waits_for_a_database_that_is_away_and_for_no_other() {
        for code in ["57P03", "57P01", "53300", "08006", "25006", "55P03", "40001"] {
            assert!(sqlstate_is_transient(code), "{code}");
        }
        for code in ["28P01", "3D000", "42P01", "42501", "23505"] {
            assert!(!sqlstate_is_transient(code), "{code}");
        }
        // FULL, CANTOPEN, PROTOCOL, and IOERR of WRITE, FSYNC, SHMOPEN and SHMSIZE.
        for code in [5, 6, 7, 13, 14, 15, 261, 517, 778, 1034, 4618, 4874] {
            assert!(sqlite_is_transient(code), "{code}");
        }
        // CORRUPT and NOTADB, and IOERR of READ, SHORT_READ, DATA and CORRUPTFS.
        for code in [1, 3, 8, 11, 19, 26, 267, 266, 522, 779, 1032, 8202, 8458] {
            assert!(!sqlite_is_transient(code), "{code}");
        }
        assert!(StoreError::from(Error::PoolTimedOut).is_away());
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(StoreError::from(Error::Io(refused)).is_away());
        assert!(!StoreError::from(Error::Configuration("no such option".into())).is_away());
    }

    #[test]
    fn what_cannot_be_read_is_corrupt_and_what_cannot_be_reached_is_unavailable() {
        let unreadable = Error::Decode("not a uuid".into());
        assert!(matches!(StoreError::from(unreadable), StoreError::Corrupt(_)));
        assert!(matches!(StoreError::from(Error::PoolTimedOut), StoreError::Unavailable(_)));
        assert!(matches!(StoreError::from(Error::PoolClosed), StoreError::Unavailable(_)));
    }
}
