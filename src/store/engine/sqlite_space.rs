//! Bounds the disk space of SQLite: its WAL starts anew, and free pages of its file go back to the file system.

use std::sync::atomic::Ordering;

use super::sqlite::{PAGE_BYTES, SqliteEngine, WAL_PAGES_MAX};
use super::sqlite_tx::Script;
use crate::store::Result;

/// Times a checkpoint is repeated to catch up with writes made meanwhile.
const CHECKPOINT_PASSES_MAX: usize = 4;

/// Free pages (10 MiB) that the file keeps: the next rows fill them.
const FREE_PAGES_KEPT: i64 = 2_560;
/// The file keeps this part of its pages free, too.
const FREE_PART_KEPT: i64 = 8;
/// Gives back 256 pages (1 MiB), in one transaction.
const GIVE_BACK_STEP: &str = "PRAGMA incremental_vacuum(256)";

impl SqliteEngine {
    /// Copies pages from the WAL to the file.
    ///
    /// `PASSIVE` waits for no reader or writer and delays none. Pages written meanwhile are left for the next pass. The
    /// WAL starts anew once a pass has left nothing and nobody reads from the WAL. Where writes and reads overlap
    /// without end, that moment never comes; so beyond its bound, the WAL starts anew while writers wait.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        let mut pages = 0;
        for _ in 0..CHECKPOINT_PASSES_MAX {
            let copied;
            (_, pages, copied) = self.run_checkpoint("PRAGMA wal_checkpoint(PASSIVE)").await?;
            if copied == pages {
                break;
            }
        }
        if pages >= self.wal_pages_max.load(Ordering::Relaxed) {
            self.start_wal_anew().await?;
        }
        Ok(())
    }

    /// Lets the WAL start anew while no transaction of this server writes. Its readers end soon and are waited for.
    /// Another process may read without end: it is waited for no longer than the checkpointer's busy timeout, and
    /// again only when the WAL has grown by a quarter.
    async fn start_wal_anew(&self) -> Result<()> {
        let _permit = self.queue.long().await;
        let _writer = self.writer.acquire().await?;
        let (busy, pages, _) = self.run_checkpoint("PRAGMA wal_checkpoint(RESTART)").await?;
        let is_kept = busy != 0;
        let bound = if is_kept { pages + pages / 4 } else { WAL_PAGES_MAX };
        self.wal_pages_max.store(bound, Ordering::Relaxed);
        if is_kept {
            tracing::warn!(
                wal_bytes = pages * PAGE_BYTES,
                "the SQLite WAL grows: somebody has been reading the file for long, such as another process"
            );
        }
        Ok(())
    }

    /// Whether the checkpoint was kept from its end (1) or not (0), the pages in the WAL, and how many of them are
    /// copied.
    async fn run_checkpoint(&self, sql: &'static str) -> Result<(i64, i64, i64)> {
        Ok(sqlx::query_as(sql).fetch_one(&self.checkpointer).await?)
    }

    /// Gives free pages back to the file system but for a part of the file, in steps that let other transactions go
    /// between them. A file that was made without `auto_vacuum` keeps its free pages for later rows.
    pub(crate) async fn give_space_back(&self) -> Result<()> {
        self.give_back_all_but(|pages| FREE_PAGES_KEPT.max(pages / FREE_PART_KEPT)).await
    }

    /// The same, but for a few pages: somebody else needs the space.
    pub(crate) async fn give_all_space_back(&self) -> Result<()> {
        self.give_back_all_but(|_| FREE_PAGES_KEPT).await
    }

    /// Gives back all free pages except the number that `kept` returns for the number of pages in the file.
    async fn give_back_all_but(&self, kept: impl Fn(i64) -> i64) -> Result<()> {
        let mut free_before = i64::MAX;
        loop {
            let free = self.pragma("PRAGMA freelist_count").await?;
            // The file gets smaller from step to step, and so does its part.
            let kept = kept(self.pragma("PRAGMA page_count").await?);
            if free <= kept || free >= free_before {
                return Ok(());
            }
            free_before = free;
            let mut step = Script::default();
            step.push(GIVE_BACK_STEP);
            let (permit, tx) = self.begin_long().await?;
            permit.end(tx.finish(step)).await?;
        }
    }

    async fn pragma(&self, sql: &'static str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.readers).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::time::Duration;

    use sqlx::{Connection, SqliteConnection};
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::StoreConfig;
    use crate::store::StoreMetrics;
    use crate::telemetry::Registry;

    fn open(directory: &Path) -> SqliteEngine {
        let config = StoreConfig::in_directory(directory);
        let metrics = StoreMetrics::register(&Registry::new()).unwrap();
        SqliteEngine::lazy(&config.sqlite_path(), &config, Arc::clone(&metrics)).unwrap()
    }

    async fn write(engine: &SqliteEngine, sql: &'static str) {
        let mut script = Script::default();
        script.push(sql);
        engine.begin().await.unwrap().finish(script).await.unwrap();
    }

    const ROWS: &str =
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                        INSERT INTO t SELECT randomblob(4000) FROM n";

    fn path_in(directory: &Path) -> PathBuf {
        StoreConfig::in_directory(directory).sqlite_path()
    }

    /// A connection that reads from the WAL until it is dropped.
    async fn reader(directory: &Path) -> SqliteConnection {
        let path = path_in(directory);
        let mut reader = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM t").execute(&mut reader).await.unwrap();
        reader
    }

    /// Reads again and again, each time for a while.
    async fn read_on(path: PathBuf) {
        let mut reader = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        loop {
            let begin = "BEGIN; SELECT count(*) FROM t";
            sqlx::raw_sql(begin).execute(&mut reader).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            sqlx::raw_sql("ROLLBACK").execute(&mut reader).await.unwrap();
        }
    }

    #[tokio::test]
    async fn wal_starts_anew_although_somebody_always_reads_from_it() {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path());
        write(&engine, "CREATE TABLE t (b)").await;
        engine.wal_pages_max.store(2_000, Ordering::Relaxed);
        let mut readers = JoinSet::new();
        for _ in 0..3 {
            readers.spawn(read_on(path_in(directory.path())));
        }
        for _ in 0..20 {
            write(&engine, ROWS).await;
            engine.checkpoint().await.unwrap();
            engine.wal_pages_max.store(2_000, Ordering::Relaxed);
        }
        let wal = directory.path().join("hookgate.db-wal");
        let pages = i64::try_from(fs::metadata(wal).unwrap().len()).unwrap() / PAGE_BYTES;
        assert!(pages < 4_000, "{pages}");
    }

    #[tokio::test]
    async fn reader_that_never_ends_is_asked_again_when_the_wal_has_grown() {
        let directory = tempfile::tempdir().unwrap();
        let engine = open(directory.path());
        write(&engine, "CREATE TABLE t (b)").await;
        write(&engine, ROWS).await;
        engine.wal_pages_max.store(100, Ordering::Relaxed);
        let endless = reader(directory.path()).await;
        write(&engine, ROWS).await;
        engine.checkpoint().await.unwrap();
        let bound = engine.wal_pages_max.load(Ordering::Relaxed);
        assert!(bound > 1_000, "{bound}");
        write(&engine, ROWS).await;
        endless.close().await.unwrap();
        engine.checkpoint().await.unwrap();
        assert_eq!(engine.wal_pages_max.load(Ordering::Relaxed), WAL_PAGES_MAX);
    }

    /// A database with a table of many pages.
    async fn filled(directory: &Path) -> SqliteEngine {
        let engine = open(directory);
        write(&engine, "CREATE TABLE t (b)").await;
        for _ in 0..10 {
            write(&engine, ROWS).await;
        }
        engine
    }

    #[tokio::test]
    async fn space_of_deleted_rows_goes_back_to_the_file_system() {
        let directory = tempfile::tempdir().unwrap();
        let engine = filled(directory.path()).await;
        let free = async || engine.pragma("PRAGMA freelist_count").await.unwrap();
        write(&engine, "DELETE FROM t WHERE rowid > 1000").await;
        assert!(free().await > FREE_PAGES_KEPT);
        engine.give_space_back().await.unwrap();
        assert!(free().await <= FREE_PAGES_KEPT, "{}", free().await);
        engine.checkpoint().await.unwrap();
        let file = fs::metadata(path_in(directory.path())).unwrap();
        let pages = i64::try_from(file.len()).unwrap() / PAGE_BYTES;
        assert!(pages < 1_200 + FREE_PAGES_KEPT, "{pages}");
    }

    #[tokio::test]
    async fn file_keeps_a_part_of_what_is_left_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let engine = filled(directory.path()).await;
        write(&engine, "DELETE FROM t WHERE rowid > 500").await;
        engine.give_back_all_but(|pages| pages / FREE_PART_KEPT).await.unwrap();
        let free = engine.pragma("PRAGMA freelist_count").await.unwrap();
        let pages = engine.pragma("PRAGMA page_count").await.unwrap();
        assert!(free <= pages / FREE_PART_KEPT, "{free} of {pages}");
    }
}
