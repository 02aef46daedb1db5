//! `hookgate listen`, as those who develop a receiver use it.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::{Place, post, text};
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;

/// A running `hookgate listen`.
struct Listener {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    input: ChildStdin,
    /// What it says first.
    first: String,
}

impl Listener {
    async fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::start_with(place, arguments, &[]).await
    }

    async fn start_with(place: &Place, arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let mut command = place.command(&[&["listen", "--port", "0"], arguments].concat());
        command.envs(settings.iter().copied());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let input = child.stdin.take().unwrap();
        let mut listener = Self { child, lines, input, first: String::new() };
        listener.first = listener.next().await;
        listener
    }

    async fn next(&mut self) -> String {
        self.lines.next_line().await.unwrap().expect("another line")
    }

    /// The lines up to one that contains a text, that one too.
    async fn until(&mut self, part: &str) -> Vec<String> {
        let mut lines = vec![self.next().await];
        while !lines.last().unwrap().contains(part) {
            lines.push(self.next().await);
        }
        lines
    }

    fn url(&self) -> &str {
        self.first.split_whitespace().find(|word| word.starts_with("http://")).unwrap()
    }

    /// The last word of the first line.
    fn endpoint(&self) -> &str {
        self.first.rsplit(' ').next().unwrap()
    }

    async fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        assert!(self.child.wait().await.unwrap().success());
    }
}

async fn get(server: &Binary, key: &str, path: &str) -> (u16, Value) {
    let request = client().get(format!("{}{path}", server.base_url)).header("x-api-key", key);
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

fn login() -> Value {
    json!({ "type": "user.login", "payload": { "user": "ada" } })
}

#[tokio::test]
async fn webhooks_are_shown_with_whether_their_signature_holds() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, _) = server.first_keys().await;
    let (other, secret) = ("AAAA".repeat(8), "BBBB".repeat(8));
    let (other, secret) = (format!("whsec_{other}"), format!("whsec_{secret}"));
    let mut plain = Listener::start(&place, &[]).await;
    let mut strict = Listener::start(&place, &["--secret", &other]).await;
    let mut knowing = Listener::start(&place, &["--secret", &secret, "--headers"]).await;
    for listener in [&plain, &strict, &knowing] {
        let endpoint = json!({ "url": listener.url(), "secret": secret });
        post(&server, &key, "/api/endpoints", endpoint).await;
    }
    let accepted = post(&server, &key, "/api/events", login()).await;
    for (listener, status, verdict) in [
        (&mut plain, "  204  ", "signature not checked"),
        (&mut strict, "  400  ", "SIGNATURE INVALID: it was made with another secret"),
        (&mut knowing, "  204  ", "signature valid"),
    ] {
        let line = listener.next().await;
        let has = |part: &str| assert!(line.contains(part), "{part} in {line}");
        has(text(&accepted, "id"));
        for part in [status, verdict, "user.login", "attempt 1"] {
            has(part);
        }
        let lines = listener.until("}").await;
        assert!(lines.contains(&"    \"user\": \"ada\"".to_owned()), "{lines:?}");
        assert_eq!(
            verdict == "signature valid",
            lines.iter().any(|l| l.starts_with("webhook-id: "))
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn listener_with_a_key_makes_an_endpoint_repeats_webhooks_and_removes_it() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[("RETRY_SCHEDULE", "50ms")]).await;
    let (key, _) = server.first_keys().await;
    let arguments =
        ["--api-key", &key, "--url", &server.base_url, "--events", "user.*", "--status", "500"];
    let mut listener = Listener::start(&place, &arguments).await;
    assert!(listener.first.contains("as the endpoint"), "{}", listener.first);
    let path = format!("/api/endpoints/{}", listener.endpoint());
    assert_eq!(get(&server, &key, &path).await.1["event_types"], json!(["user.*"]));

    post(&server, &key, "/api/events", json!({"type": "other", "payload": 1})).await;
    post(&server, &key, "/api/events", login()).await;
    let lines = listener.until("attempt 2").await;
    assert!(
        lines[0].contains("attempt 1  500") && lines[0].contains("signature valid"),
        "{lines:?}"
    );
    listener.input.write_all(b"r\n").await.unwrap();
    listener.until("attempt 3").await;
    listener.stop().await;
    assert_eq!(get(&server, &key, &path).await.0, 404);
    server.stop().await;
}

#[tokio::test]
async fn webhooks_are_passed_on_and_the_answer_is_shown_and_returned() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[("RETRY_SCHEDULE", "50ms")]).await;
    let (key, _) = server.first_keys().await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(503), Answer::status(202)]);
    let arguments = [
        &["--api-key", &key, "--url", &server.base_url, "--output", "json", "--delay", "10ms"][..],
        &["--forward-to", &receiver.url("/hooks")],
    ];
    let mut command =
        place.command(&[&["listen", "--port", "0"][..], &arguments.concat()].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let endpoint = async || {
        let (_, endpoints) = get(&server, &key, "/api/endpoints").await;
        endpoints["data"][0]["id"].as_str().map(str::to_owned)
    };
    until("the endpoint is made", async || endpoint().await.is_some()).await;
    let path = format!("/api/endpoints/{}/secret", endpoint().await.unwrap());
    let (_, secret) = get(&server, &key, &path).await;
    receiver.trust(&text(&secret, "secret").parse().unwrap());

    let accepted = post(&server, &key, "/api/events", login()).await;
    for (attempt, status) in [(1, 503), (2, 202)] {
        let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
        assert_eq!(line["webhook_id"], accepted["id"]);
        assert_eq!((&line["attempt"], &line["status"]), (&json!(attempt), &json!(status)));
        assert_eq!(
            (&line["signature"], &line["forwarded"]["status"]),
            (&json!("valid"), &json!(status))
        );
        assert_eq!(line["body"]["data"], json!({"user": "ada"}));
    }
    assert_eq!(receiver.so_far().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn events_come_through_an_inbox_where_the_server_does_not_reach_the_listener() {
    let place = Place::new();
    let settings = [("ALLOW_PRIVATE_ENDPOINTS", "false")];
    let mut server = Binary::start(&place.data_dir(), &settings).await;
    let (key, _) = server.first_keys().await;
    let receiver = Receiver::start().await;
    let arguments =
        ["--api-key", &key, "--url", &server.base_url, "--forward-to", &receiver.url("/")];
    let mut listener = Listener::start(&place, &arguments).await;
    assert!(listener.first.contains("through the inbox"), "{}", listener.first);
    receiver.trust(&listener.endpoint().parse().unwrap());
    let mut event = login();
    event["account_id"] = "acme".into();
    let accepted = post(&server, &key, "/api/events", event).await;
    let lines = listener.until("→ 2").await;
    assert!(lines[0].contains(text(&accepted, "id")) && lines[0].contains("valid"), "{lines:?}");
    let passed_on = receiver.so_far();
    assert_eq!((passed_on.len(), &passed_on[0].json()["account_id"]), (1, &json!("acme")));
    let delivered = async || {
        let path = format!("/api/deliveries?event_id={}", text(&accepted, "id"));
        get(&server, &key, &path).await.1["data"][0]["status"] == "delivered"
    };
    until("it is acknowledged", delivered).await;
    listener.stop().await;
    assert_eq!(get(&server, &key, "/api/endpoints").await.1["data"], json!([]));
    server.stop().await;
}

#[tokio::test]
async fn only_posts_are_webhooks_and_their_bytes_do_not_command_the_terminal() {
    let place = Place::new();
    let mut listener = Listener::start(&place, &[]).await;
    let answer = client().get(listener.url()).send().await.unwrap();
    assert_eq!(answer.status(), 405);
    let request = client().post(format!("{}any/path", listener.url()));
    let answer =
        request.header("webhook-id", "m").body("\u{1b}[2Jgone\u{9b}").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    let line = listener.next().await;
    assert!(line.contains("  no type  m  attempt 1  204  "), "{line}");
    assert_eq!(listener.next().await, "\\u{1b}[2Jgone\\u{9b}");
    let said = place.run(&["listen", "--events", "user.*"]).await;
    said.failed(2, "--api-key");
}

#[tokio::test]
async fn key_of_the_environment_makes_an_endpoint_unless_that_is_not_wanted() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    let (key, _) = server.first_keys().await;
    let shell = [("HOOKGATE_API_URL", server.base_url.as_str()), ("HOOKGATE_API_KEY", &key)];
    let listener = Listener::start_with(&place, &[], &shell).await;
    assert!(listener.first.contains("as the endpoint"), "{}", listener.first);
    listener.stop().await;
    for arguments in
        [&["--no-endpoint"][..], &["--secret", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]]
    {
        let listener = Listener::start_with(&place, arguments, &shell).await;
        assert!(!listener.first.contains("endpoint"), "{}", listener.first);
        listener.stop().await;
    }
    server.stop().await;
}
