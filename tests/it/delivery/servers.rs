//! A harness of real servers on one database, with a tenant's client.

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::binary::Binary;
use crate::support::client;
use crate::support::wait::until;

/// A server, its directory and a tenant's key.
pub(crate) struct Delivering {
    pub(crate) binary: Binary,
    pub(crate) directory: TempDir,
    pub(crate) tenant: Tenant,
}

/// A tenant's client.
#[derive(Clone)]
pub(crate) struct Tenant {
    client: Client,
    base_url: String,
    key: String,
}

impl Delivering {
    /// Starts a server with a tenant.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        let directory = crate::support::temporary::directory();
        let mut binary = Binary::start(directory.path(), settings).await;
        let (key, _) = binary.first_keys().await;
        let tenant = Tenant { client: client(), base_url: binary.base_url.clone(), key };
        Self { binary, directory, tenant }
    }

    /// Starts another server on the same database, for the same tenant.
    pub(crate) async fn beside(&self, settings: &[(&str, &str)]) -> Self {
        Self::at(crate::support::temporary::directory(), &self.tenant.key, settings).await
    }

    /// Kills it (`kill -9`).
    pub(crate) async fn kill(self) -> (TempDir, Tenant) {
        self.binary.kill().await;
        (self.directory, self.tenant)
    }

    /// Restarts a server on the data of another one.
    pub(crate) async fn again(
        (directory, tenant): (TempDir, Tenant),
        settings: &[(&str, &str)],
    ) -> Self {
        Self::at(directory, &tenant.key, settings).await
    }

    async fn at(directory: TempDir, key: &str, settings: &[(&str, &str)]) -> Self {
        let binary = Binary::start(directory.path(), settings).await;
        let base_url = binary.base_url.clone();
        let tenant = Tenant { client: client(), base_url, key: key.to_owned() };
        Self { binary, directory, tenant }
    }

    /// Creates an endpoint for every event at this URL.
    pub(crate) async fn endpoint(&self, url: &str) {
        let created = self.tenant.post("/api/endpoints", &json!({ "url": url })).await;
        assert!(created["id"].is_string(), "{created}");
    }

    /// Posts `count` events.
    pub(crate) async fn publish(&self, count: usize) {
        for number in 0..count {
            let event = json!({"type": "a", "payload": number});
            assert_eq!(self.tenant.post("/api/events", &event).await["status"], "accepted");
        }
    }

    /// The deliveries as the API shows them, with their attempts.
    pub(crate) async fn deliveries(&self) -> Vec<Value> {
        let list = self.tenant.get("/api/deliveries?limit=100").await;
        let mut deliveries = Vec::new();
        for delivery in list["data"].as_array().unwrap() {
            let path = format!("/api/deliveries/{}", delivery["id"].as_str().unwrap());
            deliveries.push(self.tenant.get(&path).await);
        }
        deliveries
    }

    /// Waits until `count` deliveries are delivered.
    pub(crate) async fn delivered(&self, count: usize) {
        let what = format!("{count} deliveries");
        until(&what, async || {
            let path = "/api/deliveries?status=delivered&limit=100";
            self.tenant.get(path).await["data"].as_array().unwrap().len() == count
        })
        .await;
    }

    /// Waits until a metric is at least `least`.
    pub(crate) async fn metric(&self, line: &str, least: u64) {
        until(line, async || {
            let text = self.tenant.text("/metrics").await;
            let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
            value.is_some_and(|value| value.parse::<u64>().unwrap() >= least)
        })
        .await;
    }

    /// Memory use in bytes.
    pub(crate) async fn memory_bytes(&self) -> u64 {
        self.tenant.get("/api/health").await["memory_bytes"].as_u64().unwrap()
    }
}

impl Tenant {
    /// Posts a JSON body and returns the answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.base_url);
        let request = self.client.post(url).header("x-api-key", &self.key);
        let request = request.header("content-type", "application/json").body(body.to_string());
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    }

    /// Its key.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Reads JSON.
    pub(crate) async fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    async fn text(&self, path: &str) -> String {
        let url = format!("{}{path}", self.base_url);
        let request = self.client.get(url).header("x-api-key", &self.key);
        request.send().await.unwrap().text().await.unwrap()
    }
}
