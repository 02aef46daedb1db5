//! Profiles: which server and key commands take, from flags, the environment and the file of profiles.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::{Place, Said, post, text};
use crate::support::binary::Binary;

/// A home directory, and who works there.
struct Home<'a> {
    place: &'a Place,
}

impl Home<'_> {
    fn file(&self) -> PathBuf {
        self.place.path().join("home/.config/hookgate/profiles.toml")
    }

    async fn run_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Said {
        let home = self.place.path().join("home");
        let home = [("HOME", home.to_str().unwrap())];
        self.place.run_with(arguments, &[&home[..], settings].concat()).await
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, &[]).await
    }

    async fn done(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments).await;
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{arguments:?}");
        said.out
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn profile_names_a_server_and_its_key() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, operator) = server.first_keys().await;
    let (home, url) = (Home { place: &place }, server.base_url.as_str());
    let key_file = place.path().join("operator-key");
    std::fs::write(&key_file, format!("{operator}\n")).unwrap();
    std::fs::set_permissions(&key_file, PermissionsExt::from_mode(0o600)).unwrap();

    let add = ["profile", "add", "tenant", "--url", url, "--api-key", &key];
    assert_eq!(home.done(&add).await, "added tenant, which is used from now on\n");
    let add =
        ["profile", "add", "operator", "--url", url, "--api-key-file", key_file.to_str().unwrap()];
    assert_eq!(home.done(&add).await, "added operator\n");
    let mode = std::fs::metadata(home.file()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let list = home.done(&["profile", "list", "--output", "json"]).await;
    assert!(!list.contains(&key), "{list}");
    let list: Value = serde_json::from_str(&list).unwrap();
    let expected = json!([
        {"name": "operator", "url": format!("{url}/"), "api_key": key_file, "in_use": false},
        {"name": "tenant", "url": format!("{url}/"), "api_key": "here", "in_use": true},
    ]);
    assert_eq!(list, expected);

    // The one in use, one that is named, one by its variable, and another one in use.
    home.done(&["api", "GET", "/api/org"]).await;
    let orgs = ["api", "GET", "/api/admin/orgs"];
    home.run(&orgs).await.failed(1, "403");
    home.done(&[&orgs[..], &["--profile", "operator"]].concat()).await;
    let by_variable = home.run_with(&orgs, &[("HOOKGATE_PROFILE", "operator")]).await;
    assert_eq!(by_variable.code, 0, "{}", by_variable.err);
    home.done(&["profile", "use", "operator"]).await;
    home.done(&orgs).await;

    // The environment counts before a profile in use, and after one that is named; flags before both.
    let wrong = [("HOOKGATE_API_KEY", "hg_wrong"), ("HOOKGATE_API_URL", url)];
    home.run_with(&orgs, &wrong).await.failed(1, "401");
    let named = home.run_with(&[&orgs[..], &["--profile", "operator"]].concat(), &wrong).await;
    assert_eq!(named.code, 0, "{}", named.err);
    let flags = [&orgs[..], &["--profile", "operator", "--api-key", &key]].concat();
    home.run(&flags).await.failed(1, "403");
    // Variables of another product are left alone.
    let stray = [("API_KEY", "of another product"), ("API_URL", "http://127.0.0.1:1")];
    let of_profile = home.run_with(&orgs, &stray).await;
    assert_eq!(of_profile.code, 0, "{}", of_profile.err);
    // A profile's key goes to its own server alone.
    let elsewhere = [&orgs[..], &["--url", "http://127.0.0.1:1"]].concat();
    home.run(&elsewhere).await.failed(1, "the key of the profile operator is for");

    home.run(&["api", "GET", "/", "--profile", "other"]).await.failed(1, "operator, tenant");
    home.done(&["profile", "remove", "operator"]).await;
    home.run(&orgs).await.failed(2, "--api-key");
    home.run(&["profile", "use", "operator"]).await.failed(1, "there is no profile");
    server.stop().await;
}

#[tokio::test]
async fn key_of_a_profile_is_kept_to_its_owner() {
    let place = Place::new();
    let home = Home { place: &place };
    let mut command = place.command(&["profile", "add", "a", "--api-key", "-"]);
    command.env("HOME", place.path().join("home")).stdin(Stdio::piped());
    let mut adding = command.spawn().unwrap();
    adding.stdin.take().unwrap().write_all(b"hg_s3cret\n").await.unwrap();
    assert!(adding.wait().await.unwrap().success());
    assert!(std::fs::read_to_string(home.file()).unwrap().contains("api_key = \"hg_s3cret\""));
    std::fs::set_permissions(home.file(), PermissionsExt::from_mode(0o644)).unwrap();
    let said = home.run(&["profile", "list"]).await;
    assert_eq!(said.code, 0);
    assert!(said.err.contains("has mode 0644") && said.err.contains("chmod 600"), "{}", said.err);
    assert!(!said.out.contains("s3cret") && said.out.contains("http://127.0.0.1:3000/"));
    let without = place.run(&["profile", "add", "b"]).await;
    without.failed(2, "--api-key");
    let twice = ["profile", "add", "b", "--api-key", "k", "--api-key-file", "f"];
    place.run(&twice).await.failed(2, "cannot be used with");
    place.run(&["profile", "add", "../b", "--api-key", "k"]).await.failed(2, "must be 1 to 64");
    std::fs::write(home.file(), "[profiles.a]\nurl = 1\napi_key = \"hg_s3cret\"\n").unwrap();
    home.run(&["profile", "list"]).await.failed(1, "profiles.toml, line 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_and_settings_of_an_endpoint_are_had_with_a_key() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, operator) = server.first_keys().await;
    let url = server.base_url.clone();
    let shell = [("API_URL", url.as_str()), ("API_KEY", &key)];
    post(&server, &key, "/api/events", json!({"type": "a", "payload": {}})).await;
    let made =
        post(&server, &key, "/api/endpoints", json!({"url": "https://example.com/hooks"})).await;
    let id = text(&made, "id");

    let update = async |more: &[&str]| {
        let arguments = [&["endpoint", "update", id], more].concat();
        place.run_with(&arguments, &shell).await
    };
    let settings = [
        "--endpoint-url",
        "https://example.com/other",
        "--event-types",
        "a,b.*",
        "--max-concurrency",
        "3",
        "--retry-schedule",
        "1s,5m",
        "--ordered",
        "true",
        "--enabled",
        "false",
        "--output",
        "json",
    ];
    let changed: Value = serde_json::from_str(&update(&settings).await.out).unwrap();
    let expected = json!(["https://example.com/other", ["a", "b.*"], 3, ["1s", "5m"], true, false]);
    let fields = ["url", "event_types", "max_concurrency", "retry_schedule", "ordered", "enabled"];
    assert_eq!(Value::from(fields.map(|name| changed[name].clone()).to_vec()), expected);
    let reset = update(&["--max-concurrency", "none", "--event-types", "none"]).await;
    assert!(reset.out.contains("\"max_concurrency\": null"), "{}", reset.out);
    update(&[]).await.failed(1, "nothing to change");
    update(&["--max-concurrency", "many"]).await.failed(2, "must be a whole number, or none");
    update(&["--max-concurrency", "0"]).await.failed(1, "max_concurrency");

    let usage = ["usage", "--url", &url, "--api-key"];
    let own = place.run(&[&usage[..], &[&key]].concat()).await;
    assert!(own.out.starts_with("GROUP "), "{}{}", own.out, own.err);
    let all = place.run(&[&usage[..], &[&operator]].concat()).await;
    assert!(all.out.starts_with("ORG_ID ") || all.out == "none\n", "{}{}", all.out, all.err);
    let month = place.run(&[&usage[..], &[&operator, "--month", "2020-02"]].concat()).await;
    assert_eq!(month.out, "none\n", "{}", month.err);
    let newest = place.run_with(&["event", "list", "--oldest-first"], &shell).await;
    assert_eq!(newest.code, 0, "{}", newest.err);
    server.stop().await;
}
