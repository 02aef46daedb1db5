//! Commands that call a server's API, as a tenant with nothing but a key has them.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Place, Said, post, text};
use crate::support::binary::Binary;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// A tenant's shell: the variables that name its server and key.
struct Shell<'a> {
    place: &'a Place,
    url: &'a str,
    key: &'a str,
}

impl Shell<'_> {
    async fn run(&self, arguments: &[&str]) -> Said {
        self.place.run_with(arguments, &[("API_URL", self.url), ("API_KEY", self.key)]).await
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let said = self.run(&[arguments, &["--output", "json"]].concat()).await;
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_dead_letters_are_handled_with_a_key_alone() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[("RETRY_SCHEDULE", "none")]).await;
    let (key, _) = server.first_keys().await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(500)]);
    let endpoint = post(&server, &key, "/api/endpoints", json!({ "url": receiver.url("/") })).await;
    receiver.trust(&text(&endpoint, "secret").parse().unwrap());
    let shell = Shell { place: &place, url: &server.base_url, key: &key };

    let posted =
        shell.json(&["event", "post", "user.login", r#"{"n":1.50}"#, "--user-id", "ada"]).await;
    let id = text(&posted, "id");
    let letters = async || shell.json(&["dead-letter", "list"]).await["data"].clone();
    until("it is a dead letter", async || letters().await != json!([])).await;
    let letter = letters().await[0].clone();
    assert_eq!((&letter["event_id"], &letter["status_code"]), (&json!(id), &json!(500)));

    let shown = shell.run(&["event", "show", id]).await;
    assert!(shown.out.contains("  \"payload\": {\n    \"n\": 1.50\n  }"), "{}", shown.out);
    let list = shell.run(&["event", "list", "--type", "user.*"]).await;
    let lines: Vec<_> = list.out.lines().collect();
    assert!(lines[0].starts_with("ID ") && lines[0].contains("  TYPE  "), "{}", list.out);
    assert!(lines[1].starts_with(id) && lines[1].ends_with("-           ada"), "{}", list.out);
    assert_eq!(shell.run(&["event", "list", "--type", "other"]).await.out, "none\n");

    let replayed = shell.json(&["dead-letter", "replay", text(&letter, "id")]).await;
    assert_eq!(replayed["event_id"], id);
    shell.json(&["event", "replay", id, "--endpoint", text(&endpoint, "id")]).await;
    shell.json(&["endpoint", "test", text(&endpoint, "id")]).await;
    receiver.received(4).await;
    let discarded = shell.run(&["dead-letter", "discard", text(&letter, "id")]).await;
    assert_eq!((discarded.code, discarded.out.as_str()), (0, ""), "{}", discarded.err);
    assert_eq!(letters().await, json!([]));
    let shown = shell.json(&["endpoint", "show", text(&endpoint, "id")]).await;
    assert_eq!(shown["pending_count"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_route_is_called_and_what_is_refused_is_told() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, _) = server.first_keys().await;
    let shell = Shell { place: &place, url: &server.base_url, key: &key };
    let org = shell.json(&["api", "GET", "/api/org"]).await;
    assert_eq!(org["name"], "First organisation");
    let made = shell.json(&["api", "POST", "/api/keys", r#"{"name": "second"}"#]).await;
    assert_eq!(made["name"], "second");
    let wrong = shell.run(&["api", "POST", "/api/events", r#"{"typ": "a"}"#]).await;
    wrong.failed(1, "did you mean type?");
    shell.run(&["api", "POST", "/api/events", "{"]).await.failed(1, "not valid JSON");
    shell.run(&["event", "show", "01a21878-f061-7fdb-a25e-4a08df346c32"]).await.failed(1, "404");
    place.run(&["event", "list"]).await.failed(2, "--api-key");
    let other = Shell { key: "hg_wrong", ..shell };
    other.run(&["event", "list"]).await.failed(1, "401");
    let url = server.base_url.clone();
    server.stop().await;
    let away = Shell { place: &place, url: &url, key: &key };
    away.run(&["event", "list"]).await.failed(1, "no answer from");
}

#[tokio::test]
async fn redirects_are_not_followed_and_the_key_stays_with_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let redirecting = async {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            let answer = "HTTP/1.1 301 Moved\r\nlocation: https://elsewhere.example/\r\n\
                          content-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let place = Place::new();
    let shell = Shell { place: &place, url: &url, key: "hg_key" };
    let calling = async {
        for arguments in [&["event", "post", "a"][..], &["api", "GET", "/api/org"]] {
            shell.run(arguments).await.failed(1, "the server is at \"https://elsewhere.example/\"");
        }
    };
    tokio::join!(redirecting, calling);
    shell.run(&["api", "GET", "//elsewhere.example/"]).await.failed(1, "is not a path");
}
