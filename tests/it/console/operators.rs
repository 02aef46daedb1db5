//! What operators see and do, and looking into an organisation.

use std::process::Command;

use reqwest::Method;
use serde_json::json;

use super::each_store;
use crate::support::wait::until;

#[tokio::test(flavor = "multi_thread")]
async fn organisations_are_found_limited_suspended_and_deleted() {
    for console in each_store(&[]).await {
        let mut browser = console.signed_in(&console.operator).await;
        browser
            .get("/console")
            .await
            .shows("of all organisations")
            .hides("href=\"/console/events\"");
        browser.get("/console/orgs").await.shows("First organisation");
        let created = browser.post("/console/orgs", &[("name", "Acme & Sons 100%")]).await;
        created.shows("Created.").shows("Acme &#38; Sons 100%");
        let path = created.path.split('?').next().unwrap().to_owned();
        browser
            .get("/console/orgs?name=acme+%26")
            .await
            .shows("Acme &amp; Sons")
            .hides("First organisation</a>");
        let long = "a".repeat(129);
        let refused = browser.get(&format!("/console/orgs?name={long}")).await;
        refused.expect(422);
        refused.shows("must be at most 128 bytes").hides("First organisation</a>");
        let umlaut = json!({"name": "ÄRZTE"}).to_string();
        console.api(Method::POST, "/api/admin/orgs", &console.operator, &umlaut).await;
        browser.get("/console/orgs?name=%C3%84rzte").await.shows("ÄRZTE</a>");
        browser.get("/console/orgs?name=100%25").await.shows("Acme &amp; Sons");
        browser.get("/console/orgs?name=%25%25").await.shows("No organisation matches");
        let id = path.rsplit('/').next().unwrap().to_owned();
        browser.get(&format!("/console/orgs?name={id}")).await.shows("Acme &amp; Sons");

        browser.get(&path).await;
        let fields = [("name", "Acme"), ("endpoints_max", "7"), ("burst", "0")];
        let refused = browser.post(&format!("{path}/limits"), &fields).await;
        refused.expect(422);
        refused.shows("burst must be a whole number");
        browser.get(&path).await;
        let saved = browser
            .post(&format!("{path}/limits"), &[("name", "Acme"), ("endpoints_max", "7")])
            .await;
        saved.shows("Saved.").shows("value=\"7\"");
        let created = browser.post(&format!("{path}/keys"), &[("name", "theirs")]).await;
        let key = format!("hg_{}", created.between("<code>hg_", "</code>"));
        let mut tenant = console.signed_in(&key).await;
        tenant.get("/console").await.shows("Acme");
        browser.get(&path).await;
        browser.post(&format!("{path}/suspend"), &[]).await.shows("Suspended.").shows("Resume");
        assert_eq!(tenant.get("/console").await.path, "/console/sign-in");
        browser.post(&format!("{path}/resume"), &[]).await.shows("Resumed.");
        browser
            .get("/console/operator-keys")
            .await
            .shows("theirs")
            .shows("first operator key (this session");
        browser.get("/console/operator-audit").await.shows("org.update");
        browser.get(&format!("/console/operator-audit?org_id={id}")).await.shows("key.create");
        browser
            .get("/console/server")
            .await
            .shows("Events in the journal")
            .shows("Heartbeat".to_lowercase().as_str())
            .shows("(this one)")
            .shows("The journal could read all it wrote.");
        browser.get("/console/failing-endpoints").await.shows("No endpoint fails");
        browser.get(&path).await;
        browser.post(&format!("{path}/delete"), &[]).await.shows("The deletion has begun.");
        until("the organisation is deleted", async || {
            browser.get(&path).await.text.contains("Deletion done")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_with_the_scope_looks_into_an_organisation_and_changes_nothing() {
    for console in each_store(&[]).await {
        let event = json!({"type": "user.login", "payload": 1}).to_string();
        let event = console.api(Method::POST, "/api/events", &console.key, &event).await;
        let event = event["id"].as_str().unwrap();
        let org = "/console/orgs/00000000-0000-7000-8000-000000000001";
        let mut plain = console.signed_in(&console.operator).await;
        plain.get(org).await.hides("View as tenant");
        plain.post(&format!("{org}/view"), &[]).await.shows("Missing scope");

        let key = console.impersonating_key();
        let mut browser = console.signed_in(&key).await;
        browser.get(&format!("/console/events/{event}")).await.expect(403);
        browser.get(org).await.shows("View as tenant");
        let viewing = browser.post(&format!("{org}/view"), &[]).await;
        viewing.shows("You look into organisation").shows("href=\"/console/events\"");
        until("the event is shown", async || {
            browser.get(&format!("/console/events/{event}")).await.status == 200
        })
        .await;
        let page = browser.get("/console/endpoints").await;
        page.shows("No endpoint yet").hides("Add endpoint");
        browser.get("/console/keys").await.shows("first key").hides("Create key");
        browser.get("/console/endpoints/new").await.expect(403);
        for (path, fields) in [
            ("/console/endpoints", &[("url", "https://example.com/")][..]),
            ("/console/keys", &[("name", "mine")][..]),
            ("/console/dead-letters/discard", &[][..]),
            ("/console/orgs", &[("name", "new")][..]),
        ] {
            browser.get("/console").await;
            let refused = browser.post(path, fields).await;
            assert_eq!(refused.status, 403, "{path}");
            refused.shows("Nothing was changed");
        }
        browser.get("/console").await;
        let left = browser.post("/console/leave", &[]).await;
        assert_eq!(left.path, org);
        browser.get("/console/events").await.expect(403);
        // The organisation learns of it, and not which operator it was.
        let audit = console.api(Method::GET, "/api/audit", &console.key, "").await;
        let views =
            audit["data"].as_array().unwrap().iter().filter(|entry| entry["action"] == "org.view");
        let views: Vec<_> =
            views.map(|entry| (&entry["actor"], &entry["changes"]["viewed"])).collect();
        assert_eq!(
            views,
            [(&json!("operator"), &json!(false)), (&json!("operator"), &json!(true))]
        );
    }
}

impl super::Console {
    /// The key of an operator who may look into organisations, made by the command line.
    fn impersonating_key(&self) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookgate"));
        command.args(["key", "create", "--operator", "--name", "support", "--output", "json"]);
        command.args(["--scopes", "operator:read,operator:impersonate"]);
        command.env("DATA_DIR", self.data_dir());
        if let Some(database) = &self.database {
            command.env("DATABASE_URL", database);
        }
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
        made["key"].as_str().unwrap().to_owned()
    }
}
