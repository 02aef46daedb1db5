//! A session with PostgreSQL: a connection for one statement, or a transaction.
//!
//! A connection pooler in transaction mode gives every transaction another session. So with `DATABASE_PREPARED=false`
//! each statement runs in a transaction, which begins with the settings, and none is prepared under a name.

use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Transaction};
use tokio::time::timeout;

use super::QueryPlans;
use crate::store::{Result, StoreError, error};

/// Settings of every session, in place of the server's and the role's defaults.
const SETTINGS: [(&str, &str); 23] = [
    // What a role or a database may have otherwise. Whether transactions are read only is not among it: that is how
    // a former primary is fenced.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("IntervalStyle", "postgres"),
    ("DateStyle", "ISO"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("array_nulls", "on"),
    ("idle_session_timeout", "0"),
    ("enable_indexscan", "on"),
    ("enable_nestloop", "on"),
    ("enable_seqscan", "on"),
    // Notices are for people at a prompt.
    ("client_min_messages", "warning"),
    // An accepted event may leave the journal once it is committed here.
    ("synchronous_commit", "on"),
    // Far above any statement's share, and below the patience of its callers.
    ("statement_timeout", "30s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "60s"),
    // A plan for the values at hand leaves out partitions and filters that do not matter to them.
    ("plan_cache_mode", "force_custom_plan"),
    // Every join here looks up some hundred rows by their key, and every list is the start of an
    // index. A planner that has no statistics of today's partition yet reads all pending rows
    // instead, which grows with the backlog; so the plans that start by reading everything are off.
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_bitmapscan", "off"),
    ("random_page_cost", "1.1"),
    // Every statement is short; compiling one takes 40 ms.
    ("jit", "off"),
];

/// The settings as statements, with another limit for statements if one is given. `set` is `SET` or `SET LOCAL`.
fn settings(set: &str, statement_timeout: Option<&str>) -> String {
    let statement = |(name, value): &(&str, &str)| match (*name, statement_timeout) {
        ("statement_timeout", Some(limit)) => format!("{set} statement_timeout = '{limit}'; "),
        _ => format!("{set} {name} = '{value}'; "),
    };
    SETTINGS.iter().map(statement).collect()
}

/// The longest wait for an answer: what the database may take for a statement, and some.
const STATEMENT_WAIT_MAX: Duration = Duration::from_secs(35);

/// An answer of the database. The network never tells of a host that is gone without a word once it has received a
/// statement, so that a session with it would be in use for ever: after [`STATEMENT_WAIT_MAX`] every session is suspected.
pub(crate) async fn answered<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    let Ok(answer) = timeout(STATEMENT_WAIT_MAX, answer).await else {
        error::suspect_sessions();
        return Err(StoreError::no_answer());
    };
    Ok(answer?)
}

/// How sessions are set up.
#[derive(Clone, Debug)]
pub(super) struct SessionSetup {
    /// Whether a session is one of the database's own, so that statements can be prepared in it and settings last.
    pub(super) is_prepared: bool,
    /// Sets a session up, or begins a transaction that is.
    pub(super) begin: Arc<str>,
}

impl SessionSetup {
    /// The settings, with another limit for statements if one is given.
    pub(super) fn new(is_prepared: bool, statement_timeout: Option<&str>) -> Self {
        let begin = if is_prepared {
            settings("SET", statement_timeout)
        } else {
            let settings = settings("SET LOCAL", statement_timeout);
            format!("BEGIN ISOLATION LEVEL READ COMMITTED; {settings}")
        };
        Self { is_prepared, begin: begin.into() }
    }

    /// [`Self::apply`], by value.
    pub(super) async fn applied(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.apply(connection).await
    }

    /// Makes the settings of a new connection, where they last.
    pub(super) async fn apply(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.is_prepared {
            let begin = AssertSqlSafe(Arc::clone(&self.begin));
            sqlx::raw_sql(begin).execute(connection).await?;
        }
        Ok(())
    }
}

/// A session.
pub(crate) struct PgSession {
    link: Link,
    is_prepared: bool,
    /// Where plans are recorded, if they are.
    pub(super) plans: Option<Arc<QueryPlans>>,
}

enum Link {
    Connection(PoolConnection<Postgres>),
    Transaction(Transaction<'static, Postgres>),
}

impl PgSession {
    /// A transaction.
    pub(super) const fn of_transaction(
        tx: Transaction<'static, Postgres>,
        is_prepared: bool,
    ) -> Self {
        Self { link: Link::Transaction(tx), is_prepared, plans: None }
    }

    /// A connection whose session lasts, outside of a transaction.
    pub(super) const fn of_connection(connection: PoolConnection<Postgres>) -> Self {
        Self { link: Link::Connection(connection), is_prepared: true, plans: None }
    }

    /// Whether statements are prepared under a name.
    pub(crate) const fn is_prepared(&self) -> bool {
        self.is_prepared
    }

    /// Its connection.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        match &mut self.link {
            Link::Connection(connection) => connection,
            Link::Transaction(tx) => tx,
        }
    }

    /// Makes durable what was written in a transaction; a single statement is already.
    pub(crate) async fn commit(self) -> Result<()> {
        match self.link {
            Link::Connection(_) => Ok(()),
            Link::Transaction(tx) => answered(tx.commit()).await,
        }
    }

    /// Takes back what was written in a transaction.
    pub(crate) async fn rollback(self) -> Result<()> {
        match self.link {
            Link::Connection(_) => Ok(()),
            Link::Transaction(tx) => answered(tx.rollback()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_of_reads_takes_the_place_of_the_usual_one() {
        let setup = SessionSetup::new(false, Some("5000ms"));
        assert!(setup.begin.starts_with("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL "));
        assert!(setup.begin.contains("SET LOCAL statement_timeout = '5000ms'; "));
        assert!(!setup.begin.contains("'30s'"));
        let lasting = SessionSetup::new(true, None);
        assert!(lasting.begin.contains("SET statement_timeout = '30s'; "));
    }
}
