//! The console over real HTTP, on both stores, read as a browser without scripts reads it.

mod browser;
mod isolation;
mod operators;
mod pages;
mod portal;
mod portal_escapes;
mod sessions;
mod tenants;

use std::path::Path;

use crate::support::binary::Binary;
use crate::support::postgres::fresh_database;
use crate::support::temporary;
use browser::Browser;

/// A server on an empty store, with its first keys.
struct Console {
    server: Binary,
    key: String,
    operator: String,
    dir: tempfile::TempDir,
    /// Its PostgreSQL database, if it has one.
    database: Option<String>,
}

impl Console {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let dir = temporary::directory();
        let server = Binary::start(dir.path(), settings).await;
        let (key, operator) = crate::support::binary::first_keys(dir.path()).await;
        let named = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
        let database = named.map(|(_, url)| (*url).to_owned());
        Self { server, key, operator, dir, database }
    }

    fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Somebody without a session.
    fn browser(&self) -> Browser {
        Browser::new(&self.server.base_url)
    }

    /// Somebody who has signed in with this key.
    async fn signed_in(&self, key: &str) -> Browser {
        let mut browser = self.browser();
        browser.sign_in(key).await;
        browser
    }

    /// Asks the API.
    async fn api(
        &self,
        method: reqwest::Method,
        path: &str,
        key: &str,
        body: &str,
    ) -> serde_json::Value {
        let url = format!("{}{path}", self.server.base_url);
        let request = crate::support::client().request(method, url).header("x-api-key", key);
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let text = request.send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// A server on each store.
async fn each_store(settings: &[(&str, &str)]) -> [Console; 2] {
    let database = fresh_database().await;
    let mut with_postgres = settings.to_vec();
    with_postgres.push(("DATABASE_URL", &database));
    [Console::start(settings).await, Console::start(&with_postgres).await]
}
