//! Databases of tests, removed once their test has ended: those of a whole run take 8 GB in 300,000 files.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// The URL of a PostgreSQL database. It is removed in the background once this is dropped.
pub(crate) struct RemovedLater(pub(crate) String);

impl Drop for RemovedLater {
    fn drop(&mut self) {
        static REMOVER: OnceLock<Sender<String>> = OnceLock::new();
        let remover = REMOVER.get_or_init(|| {
            let (sender, ended) = channel();
            thread::spawn(move || remove(&ended));
            sender
        });
        let _ = remover.send(std::mem::take(&mut self.0));
    }
}

/// Removes databases one by one. Open connections are ended.
fn remove(ended: &Receiver<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for url in ended {
        // One that stays goes with its server.
        let _ = runtime.block_on(drop_database(&url));
    }
}

async fn drop_database(url: &str) -> Result<(), sqlx::Error> {
    let (server, name) = url.rsplit_once('/').unwrap();
    let mut connection = PgConnection::connect(&format!("{server}/postgres")).await?;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    connection.execute(AssertSqlSafe(drop)).await?;
    connection.close().await
}
