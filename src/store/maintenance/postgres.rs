//! Migrates a PostgreSQL database.

use sqlx::migrate::Migrate;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

use super::{MigrateError, failed};
use crate::store::advisory_locks::MIGRATION;
use crate::store::engine::PostgresEngine;
use crate::store::{MigrationStatus, migrations};

pub(super) async fn migrate_up(engine: &PostgresEngine) -> Result<usize, MigrateError> {
    let Some(options) = engine.session_options().await else {
        return migrate_up_in_one_transaction(engine).await;
    };
    let mut connection = migrating(&options).await.map_err(failed)?;
    let before = applied(&mut connection).await.map_err(failed)?.len();
    migrations::migrator(migrations::POSTGRES).run_direct(None, &mut connection, false).await?;
    let after = applied(&mut connection).await.map_err(failed)?.len();
    connection.close().await.map_err(failed)?;
    Ok(after.saturating_sub(before))
}

pub(super) async fn migrate_down(engine: &PostgresEngine) -> Result<Option<i64>, MigrateError> {
    let Some(options) = engine.session_options().await else {
        return migrate_down_in_one_transaction(engine).await;
    };
    let mut connection = migrating(&options).await.map_err(failed)?;
    let applied = applied(&mut connection).await.map_err(failed)?;
    let Some(newest) = applied.last().copied() else { return Ok(None) };
    let down = migrations::down(migrations::POSTGRES, newest)?;
    connection.revert(migrations::TABLE, &down).await?;
    connection.close().await.map_err(failed)?;
    Ok(Some(newest))
}

pub(super) async fn migration_status(
    engine: &PostgresEngine,
) -> Result<Vec<MigrationStatus>, MigrateError> {
    let mut session = engine.for_statement().await?;
    let applied = applied(session.connection()?).await.map_err(failed)?;
    session.commit().await?;
    Ok(migrations::status(migrations::POSTGRES, &applied))
}

/// What migrations need: time, and no notices.
const MIGRATION_SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0;
     SET client_min_messages = warning; SET standard_conforming_strings = on;
     SET default_transaction_isolation = 'read committed'; SET idle_session_timeout = 0";

/// Migrates through a pooler, where only a transaction is one session from its begin to its end: all steps are one
/// transaction, under a lock that ends with it. Statements that sqlx has prepared under names are given up.
async fn migrate_up_in_one_transaction(engine: &PostgresEngine) -> Result<usize, MigrateError> {
    let mut tx = migrating_in_transaction(engine).await?;
    let connection = &mut *tx;
    let before = applied(connection).await.map_err(failed)?.len();
    let mut migrator = migrations::migrator(migrations::POSTGRES);
    migrator.set_locking(false).run_direct(None, connection, false).await?;
    let after = applied(connection).await.map_err(failed)?.len();
    sqlx::raw_sql("DEALLOCATE ALL").execute(connection).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(after.saturating_sub(before))
}

async fn migrate_down_in_one_transaction(
    engine: &PostgresEngine,
) -> Result<Option<i64>, MigrateError> {
    let mut tx = migrating_in_transaction(engine).await?;
    let connection = &mut *tx;
    let newest = applied(connection).await.map_err(failed)?.last().copied();
    if let Some(newest) = newest {
        let down = migrations::down(migrations::POSTGRES, newest)?;
        connection.revert(migrations::TABLE, &down).await?;
    }
    sqlx::raw_sql("DEALLOCATE ALL").execute(connection).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(newest)
}

async fn migrating_in_transaction(
    engine: &PostgresEngine,
) -> Result<Transaction<'static, Postgres>, MigrateError> {
    let mut tx = engine.begin_migration().await?;
    let begin = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; DEALLOCATE ALL;
         SELECT pg_advisory_xact_lock({MIGRATION})"
    );
    let begin = sqlx::raw_sql(AssertSqlSafe(begin));
    begin.execute(&mut *tx).await.map_err(failed)?;
    Ok(tx)
}

/// A connection of its own that holds sqlx's migration lock, which the server releases when
/// the connection ends, however it ends. Waiting for another instance's migration has no limit.
async fn migrating(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = PgConnection::connect_with(options).await?;
    sqlx::raw_sql(MIGRATION_SETTINGS).execute(&mut connection).await?;
    Migrate::lock(&mut connection).await.map_err(|error| sqlx::Error::Migrate(error.into()))?;
    Ok(connection)
}

/// The versions that were applied, oldest first; none in a database that was never migrated.
async fn applied(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(migrations::TABLE)
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(Vec::new());
    }
    sqlx::query_scalar("SELECT version FROM _sqlx_migrations ORDER BY version")
        .persistent(false)
        .fetch_all(connection)
        .await
}
