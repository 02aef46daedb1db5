//! The scenario `store`, from accepted to stored; and its peer, plain inserts of the same rows into
//! PostgreSQL.

use std::time::Duration;

use hookgate::cli::CliError;
use hookgate::domain::{EventId, Timestamp, TraceId};
use hookgate::runtime::{Clock, Stopwatch};
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::args::{RunArgs, Scenario};
use crate::event_source::payload;
use crate::load::Load;
use crate::measure::unless_stopped;
use crate::report::Measured;
use crate::server::Server;
use crate::target::Target;

/// Rows per statement of the peer: a worker's batch.
pub(crate) const ROWS: u16 = 500;
/// Connections of the peer: the number of workers on two cores.
const WRITERS: u32 = 8;

/// Posts batches and waits until every event is stored. The rate counts requests over the time from
/// the first post to the last commit.
pub(crate) async fn run(args: &RunArgs, server: &Server, load: Load) -> Result<Measured, CliError> {
    let watch = Stopwatch::start();
    let mut measured = load.run(&Target::new(Scenario::IngestBatch, args, server)).await?;
    server.settle().await;
    measured.seconds = watch.seconds();
    Ok(measured)
}

/// Inserts rows of events, one `unnest` statement per 500 rows, into a table with the columns and
/// indexes of `events` and without partitions. A request is one statement.
pub(crate) async fn run_unnest(
    args: &RunArgs,
    database_url: &str,
    duration: Duration,
    stop: &CancellationToken,
) -> Result<Measured, CliError> {
    let pool = PgPoolOptions::new().max_connections(WRITERS).connect(database_url).await?;
    sqlx::query("DROP TABLE IF EXISTS bench_unnest").execute(&pool).await?;
    sqlx::query(
        "CREATE TABLE bench_unnest (
             id uuid NOT NULL, org_id uuid NOT NULL, event_type text NOT NULL,
             payload bytea NOT NULL, dedup_id text, account_id text, user_id text,
             occurred_at timestamptz, received_at timestamptz NOT NULL, trace_id uuid NOT NULL,
             PRIMARY KEY (id, received_at))",
    )
    .execute(&pool)
    .await?;
    sqlx::query("CREATE INDEX ON bench_unnest (org_id, received_at, id)").execute(&pool).await?;

    let measured = unless_stopped(stop, insert_all(args, &pool, duration)).await;
    // After a failure too.
    sqlx::query("DROP TABLE bench_unnest").execute(&pool).await?;
    pool.close().await;
    measured
}

async fn insert_all(
    args: &RunArgs,
    pool: &PgPool,
    duration: Duration,
) -> Result<Measured, CliError> {
    let org = Uuid::new_v4();
    let payload = payload(args.payload_bytes as usize, "").into_bytes();
    let watch = Stopwatch::start();
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (pool, payload) = (pool.clone(), payload.clone());
        writers.spawn(async move {
            let mut measured = Measured::new()?;
            while watch.elapsed() < duration {
                let begin = watch.elapsed();
                insert(&pool, org, &payload).await?;
                measured.success(watch.elapsed().saturating_sub(begin));
            }
            Ok::<_, CliError>(measured)
        });
    }
    let mut total = Measured::new()?;
    while let Some(written) = writers.join_next().await {
        total.add(written??)?;
    }
    total.seconds = watch.seconds();
    Ok(total)
}

async fn insert(pool: &PgPool, org: Uuid, payload: &[u8]) -> Result<(), CliError> {
    let now: Timestamp = Clock::system().now();
    let rows = usize::from(ROWS);
    let ids: Vec<Uuid> = (0..rows).map(|_| EventId::mint(now).uuid()).collect();
    let traces: Vec<Uuid> = (0..rows).map(|_| Uuid::from_bytes(*TraceId::mint().bytes())).collect();
    let nothing: Vec<Option<String>> = vec![None; rows];
    let never: Vec<Option<time::OffsetDateTime>> = vec![None; rows];
    sqlx::query(
        "INSERT INTO bench_unnest
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[],
                              $6::text[], $7::text[], $8::timestamptz[], $9::timestamptz[],
                              $10::uuid[])",
    )
    .bind(ids)
    .bind(vec![org; rows])
    .bind(vec!["bench.event"; rows])
    .bind(vec![payload; rows])
    .bind(&nothing)
    .bind(&nothing)
    .bind(&nothing)
    .bind(never)
    .bind(vec![time::OffsetDateTime::from(now); rows])
    .bind(traces)
    .execute(pool)
    .await?;
    Ok(())
}
