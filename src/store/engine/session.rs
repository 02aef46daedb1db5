//! A session with PostgreSQL: a connection for one statement, or a transaction.
//!
//! A connection pooler in transaction mode gives every transaction another session. So with `DATABASE_PREPARED=false`
//! each statement runs in a transaction, which begins with the settings, and none is prepared under a name.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Postgres, SqlSafeStr};
use tokio::runtime::Handle;
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

/// How long a host may take to answer that it is there; then it is not.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The longest wait for an answer: the `statement_timeout` of a session, and a margin.
const STATEMENT_WAIT_MAX: Duration = Duration::from_secs(35);
/// Whether a commit here waits for a synchronous standby, which `statement_timeout` does not limit.
const WAITS_FOR_STANDBY: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity
     WHERE wait_event = 'SyncRep' AND usename = current_user)";

/// The answer to a statement of a session with `host`. Once a host has received a statement and then cannot be reached,
/// TCP does not tell: the session would be in use for ever. After [`STATEMENT_WAIT_MAX`] it is given up, and every
/// session is suspected; but not while commits wait for a standby, since those go on when their session ends.
pub(crate) async fn answered<T>(
    host: Arc<PgConnectOptions>,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T> {
    let mut answer = pin!(answer);
    loop {
        match timeout(STATEMENT_WAIT_MAX, answer.as_mut()).await {
            Ok(answer) => return Ok(answer?),
            Err(_) if Box::pin(waits_for_standby(&host)).await => {}
            Err(_) => {
                error::suspect_sessions();
                return Err(StoreError::no_answer());
            }
        }
    }
}

async fn waits_for_standby(host: &PgConnectOptions) -> bool {
    let asking = async {
        let mut connection = host.connect().await?;
        let query = sqlx::query_scalar(WAITS_FOR_STANDBY).persistent(false);
        let waits: bool = query.fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok::<_, sqlx::Error>(waits)
    };
    matches!(timeout(ANSWER_MAX, asking).await, Ok(Ok(true)))
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

/// A session. sqlx's own transaction is not used: one whose `BEGIN` is given up before its answer leaves a connection in
/// its pool that is in a transaction.
pub(crate) struct PgSession {
    /// `None` once it is over.
    connection: Option<PoolConnection<Postgres>>,
    host: Arc<PgConnectOptions>,
    is_prepared: bool,
    in_transaction: bool,
    /// Where plans are recorded, if they are.
    pub(super) plans: Option<Arc<QueryPlans>>,
}

impl PgSession {
    /// A session for one statement, outside of a transaction, on a connection of a pool. Every connection is taken so: a
    /// pool itself may keep a permit for long where a host vanishes.
    pub(super) async fn acquire(pool: &PgPool, is_prepared: bool) -> Result<Self> {
        let host = pool.connect_options();
        let connection = Some(pool.acquire().await?);
        Ok(Self { connection, host, is_prepared, in_transaction: false, plans: None })
    }

    /// Begins a transaction by a statement, or several in one string.
    pub(super) async fn begin(&mut self, begin: impl SqlSafeStr) -> Result<()> {
        // Before the statement is sent: what is given up meanwhile is rolled back.
        self.in_transaction = true;
        self.run(begin).await
    }

    /// Whether statements are prepared under a name.
    pub(crate) const fn is_prepared(&self) -> bool {
        self.is_prepared
    }

    /// Its connection.
    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection> {
        let connection = self.connection.as_deref_mut().ok_or(sqlx::Error::PoolClosed)?;
        Ok(connection)
    }

    /// How its host is connected to.
    pub(crate) fn host(&self) -> Arc<PgConnectOptions> {
        Arc::clone(&self.host)
    }

    /// Makes durable what was written in a transaction; a single statement is already.
    pub(crate) async fn commit(self) -> Result<()> {
        self.end("COMMIT").await
    }

    /// Takes back what was written in a transaction.
    pub(crate) async fn rollback(self) -> Result<()> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, end: &'static str) -> Result<()> {
        if std::mem::take(&mut self.in_transaction) {
            self.run(end).await?;
        }
        if let Some(connection) = self.connection.take() {
            Handle::current().spawn(give_back(connection));
        }
        Ok(())
    }

    async fn run(&mut self, sql: impl SqlSafeStr) -> Result<()> {
        answered(self.host(), sqlx::raw_sql(sql).execute(self.connection()?)).await.map(drop)
    }
}

impl Drop for PgSession {
    /// Ends what was given up, an answer that is still to come included. A connection that does not answer is closed.
    fn drop(&mut self) {
        let (Some(mut connection), Ok(runtime)) = (self.connection.take(), Handle::try_current())
        else {
            return;
        };
        let in_transaction = self.in_transaction;
        runtime.spawn(async move {
            let ending = async {
                if in_transaction {
                    sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await.map(drop)
                } else {
                    connection.ping().await
                }
            };
            if matches!(timeout(ANSWER_MAX, ending).await, Ok(Ok(()))) {
                give_back(connection).await;
            } else {
                connection.close_on_drop();
            }
        });
    }
}

/// Returns a connection to its pool. sqlx asks the host first whether it is there, waits for the answer without a limit,
/// and keeps the permit meanwhile: that of a host that has just vanished would be gone until TCP gives up. So what takes
/// longer than [`ANSWER_MAX`] is given up, which closes the connection. sqlx does not document the method.
async fn give_back(mut connection: PoolConnection<Postgres>) {
    if timeout(ANSWER_MAX, connection.return_to_pool()).await.is_err() {
        tracing::debug!("the database does not answer; closed a connection to it");
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
