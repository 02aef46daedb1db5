//! The command line, as people and scripts use it: the real binary in a directory of its own.

mod accounts;
mod bench;
mod examining;
mod health;
mod listen;
mod openapi;
mod profiles;
mod secrets;
mod seed;
mod served;
mod starting;
mod tail;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::binary::{Binary, first_keys};
use crate::support::receiver::{Answer, Receiver};
use crate::support::wait::until;
use crate::support::{client, postgres};

/// An empty working directory, with data in `./data`.
struct Place(TempDir);

/// What a command said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        Self(crate::support::temporary::directory())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// `./data`, made for a server that is started there.
    fn data_dir(&self) -> PathBuf {
        let directory = self.path().join("data");
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_hookgate"), arguments)
    }

    fn command_of(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path()).env_clear();
        command.env("TMPDIR", self.path()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, &[]).await
    }

    async fn run_with(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Said {
        Said::by(self.command(arguments).envs(settings.iter().copied())).await
    }

    /// Runs a command with `--output json` and reads the one value it must print.
    async fn json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let said = self.run(&arguments).await;
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        assert_eq!(said.out.lines().count(), 1, "{}", said.out);
        serde_json::from_str(&said.out).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = self.path().read_dir().unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Said {
    async fn by(command: &mut Command) -> Self {
        let output = command.output().await.unwrap();
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It failed with this exit code, said this, and answered nothing.
    #[track_caller]
    fn failed(&self, code: i32, with: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(with), "{}", self.err);
        assert_eq!(self.out, "");
        assert!(!self.err.contains("s3cret"), "{}", self.err);
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}"))
}

const NOBODY: &str = "019b0000-0000-7000-8000-000000000000";

#[tokio::test]
async fn every_command_answers_one_json_value() {
    let place = Place::new();
    let status = place.json(&["migrate", "status"]).await;
    let loses = "Everything: organisations, keys, endpoints, events and deliveries.";
    let first =
        json!({ "version": 1, "name": "initial", "applied": false, "rollback_loses": loses });
    assert_eq!(status[0], first);
    assert_eq!(place.files(), [""; 0], "a question creates nothing");
    assert_eq!(place.json(&["migrate", "down", "--yes"]).await, json!({ "version": null }));
    let count = status.as_array().unwrap().len();
    assert_eq!(place.json(&["migrate", "up"]).await, json!({ "applied": count }));
    assert_eq!(place.json(&["migrate", "up"]).await, json!({ "applied": 0 }));
    for list in ["org", "key"] {
        assert_eq!(place.json(&[list, "list"]).await, json!([]));
    }

    let create = ["org", "create", "--name", "Acme", "--rate-limit-per-minute", "6000"];
    let org = place.json(&create).await;
    assert_eq!((text(&org, "name"), &org["rate_limit_per_minute"]), ("Acme", &json!(6000)));
    assert_eq!(place.json(&["org", "list"]).await, json!([org]));
    let org = text(&org, "id");
    assert_eq!(place.json(&["endpoint", "list", "--org", org]).await, json!([]));

    let mut key = place.json(&["key", "create", "--org", org, "--name", "ci"]).await;
    assert!(text(&key, "key").starts_with("hg_"), "{key}");
    assert_eq!(text(&key, "org_id"), org);
    key.as_object_mut().unwrap().remove("key");
    assert_eq!(place.json(&["key", "list", "--org", org]).await, json!([key]));
    let operator = place.json(&["key", "create", "--operator", "--name", "ops"]).await;
    assert_eq!(operator["org_id"], Value::Null);
    let rotated = place.json(&["key", "rotate", text(&key, "id"), "--grace", "1h"]).await;
    assert_eq!((text(&rotated, "name"), text(&rotated, "org_id")), ("ci", org));
    let id = text(&rotated, "id");
    let rotate = ["key", "rotate", text(&key, "id"), "--grace", "3650d"];
    place.run(&rotate).await.failed(1, "grace_seconds must be at most 604800 seconds");
    let again = ["key", "rotate", text(&key, "id")];
    place.run(&again).await.failed(1, &format!("rotate {id} instead"));
    let revoked = place.json(&["key", "revoke", id]).await;
    assert_eq!(revoked, json!({ "id": id, "revoked": true }));
    assert_eq!(place.json(&["key", "list"]).await.as_array().unwrap().len(), 3);

    let url = "https://example.com/hooks";
    let types = "user.login,invoice.*";
    let add = ["endpoint", "add", "--org", org, "--url", url, "--event-types", types];
    let policy = ["--max-concurrency", "4", "--retry-schedule", "5s,90m", "--ordered"];
    let rule = "must be standard or cloudevents";
    place.run(&[&add[..], &["--format", "xml"]].concat()).await.failed(2, rule);
    let format = ["--format", "cloudevents"];
    let mut endpoint = place.json(&[&add[..], &policy, &format].concat()).await;
    assert_eq!(endpoint["format"], "cloudevents");
    assert_eq!((&endpoint["max_concurrency"], &endpoint["ordered"]), (&json!(4), &json!(true)));
    assert_eq!(endpoint["retry_schedule"], json!(["5s", "1h 30m"]));
    assert_eq!(endpoint["rate_limit_per_second"], Value::Null);
    assert!(text(&endpoint, "secret").starts_with("whsec_"), "{endpoint}");
    assert_eq!(endpoint["event_types"], json!(["user.login", "invoice.*"]));
    // Lists leave custom headers and what waits out, too.
    let alone = ["secret", "headers", "pending_count", "paused_until"];
    endpoint.as_object_mut().unwrap().retain(|name, _| !alone.contains(&&**name));
    assert_eq!(place.json(&["endpoint", "list", "--org", org]).await, json!([endpoint]));
    let id = text(&endpoint, "id");
    let disabled = place.json(&["endpoint", "disable", "--org", org, id]).await;
    assert_eq!(text(&disabled, "disabled_reason"), "disabled by the operator");
    let enabled = place.json(&["endpoint", "enable", "--org", org, id]).await;
    assert_eq!(enabled["disabled_reason"], Value::Null);
    let removed = place.json(&["endpoint", "remove", "--org", org, id]).await;
    assert_eq!(removed, json!({ "id": id, "removed": true }));
    let newest = status.as_array().unwrap().last().unwrap();
    let back = json!({ "version": newest["version"] });
    let said = place.run(&["migrate", "down"]).await;
    let lost = format!("loses: {}", text(newest, "rollback_loses"));
    said.failed(1, &lost);
    assert!(said.err.contains("--yes reverts without asking"), "{}", said.err);
    assert_eq!(place.json(&["migrate", "down", "--yes"]).await, back);
}

#[tokio::test]
async fn organisations_and_keys_have_limits_scopes_and_an_end_and_the_log_tells_who_did_it() {
    let place = Place::new();
    let created = place.json(&["org", "create", "--name", "Acme", "--keys-max", "2"]).await;
    let org = text(&created, "id");
    let update = ["org", "update", org, "--name", "Ltd", "--burst", "5", "--keys-max", "none"];
    let updated = place.json(&update).await;
    assert_eq!((text(&updated, "name"), &updated["burst"]), ("Ltd", &json!(5)));
    assert_eq!(updated["keys_max"], Value::Null);
    for wrong in ["0", "few", "1.0", "1e3", "100000001", "5000000000"] {
        let rule = "must be a whole number from 1 to 100000000, in digits, or none";
        place.run(&["org", "update", org, "--burst", wrong]).await.failed(2, rule);
    }
    let add = ["endpoint", "add", "--org", org, "--url", "https://example.com/hooks"];
    for wrong in ["0", "1001", "5000000000"] {
        let add = [&add[..], &["--max-concurrency", wrong]].concat();
        place.run(&add).await.failed(2, "is not in 1..=1000");
    }

    let scopes = ["--scopes", "events:read,events:write", "--expires-in", "1h"];
    let create = [&["key", "create", "--org", org, "--name", "ci"], &scopes[..]].concat();
    let mut key = place.json(&create).await;
    assert_eq!(key["scopes"], json!(["events:write", "events:read"]));
    assert!(key["expires_at"].is_string());
    key.as_object_mut().unwrap().remove("key");
    let id = text(&key, "id");
    assert_eq!(place.json(&["key", "show", id]).await, key);
    let wrong = ["key", "create", "--org", org, "--name", "x", "--scopes", "operator:read"];
    place.run(&wrong).await.failed(1, "scopes must be some of events:write");
    for span in ["0s", "999ms"] {
        let dead = ["key", "create", "--org", org, "--name", "x", "--expires-in", span];
        place.run(&dead).await.failed(1, "expires_in must be at least 1s");
    }
    let slow = ["key", "create", "--operator", "--name", "x", "--rate-limit-per-minute", "5"];
    assert_eq!(place.json(&slow).await["rate_limit_per_minute"], 5);
    let rates = ["--event-type-rate", "a.b=5", "--event-type-rate", "c=7"];
    let rates = [&["org", "update", org, "--deliveries-per-minute", "9"], &rates[..]].concat();
    let updated = place.json(&rates).await;
    assert_eq!(updated["event_type_rates"], json!({"a.b": 5, "c": 7}));
    assert_eq!(updated["deliveries_per_minute"], 9);
    let none = place.json(&["org", "update", org, "--no-event-type-rates"]).await;
    assert_eq!(none["event_type_rates"], json!({}));
    let wrong = ["org", "update", org, "--event-type-rate", "a b=5"];
    place.run(&wrong).await.failed(1, "event_type_rates types must be words of letters");
    let full = ["org", "update", org, "--keys-max", "1", "--endpoints-max", "0"];
    place.json(&full).await;
    let more = ["key", "create", "--org", org, "--name", "x"];
    place.run(&more).await.failed(1, "quota of 1 keys is used up");
    let add = ["endpoint", "add", "--org", org, "--url", "https://example.com/"];
    place.run(&add).await.failed(1, "quota of 0 endpoints is used up");

    for (verb, state) in [("suspend", "suspended"), ("resume", "active"), ("delete", "deleting")] {
        assert_eq!(text(&place.json(&["org", verb, org]).await, "state"), state);
        assert_eq!(text(&place.json(&["org", "show", org]).await, "state"), state);
    }
    place.run(&["org", "resume", org]).await.failed(1, "there is no organisation");
    let log = place.json(&["audit", "list"]).await;
    let actions: Vec<&str> =
        log.as_array().unwrap().iter().map(|entry| text(entry, "action")).collect();
    assert_eq!(actions.first(), Some(&"org.delete"));
    assert_eq!(actions.last(), Some(&"org.create"));
    assert_eq!(actions.len(), 10, "{actions:?}");
    assert!(log.as_array().unwrap().iter().all(|entry| entry["actor"] == "cli"));
    let own = place.json(&["audit", "list", "--org", org, "--limit", "2"]).await;
    assert_eq!(own.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_named_and_nothing_is_created() {
    let place = Place::new();
    for command in [
        &["org", "list"][..],
        &["key", "list"],
        &["key", "create", "--org", NOBODY, "--name", "x"],
        &["key", "revoke", NOBODY],
        &["key", "rotate", NOBODY],
        &["endpoint", "list", "--org", NOBODY],
        &["endpoint", "add", "--org", NOBODY, "--url", "https://example.com/"],
        &["delivery", "list", "--org", NOBODY],
        &["replay", "list", "--org", NOBODY],
    ] {
        place.run(command).await.failed(1, "there is no ./data/hookgate.db");
    }
    assert_eq!(place.files(), [""; 0]);

    place.json(&["migrate", "up"]).await;
    let organisation = format!("there is no organisation {NOBODY}");
    place.run(&["key", "list", "--org", NOBODY]).await.failed(1, &organisation);
    let create = ["key", "create", "--org", NOBODY, "--name", "x"];
    place.run(&create).await.failed(1, &organisation);
    place.run(&["endpoint", "list", "--org", NOBODY]).await.failed(1, &organisation);
    place.run(&["key", "revoke", NOBODY]).await.failed(1, "there is no key");
    let remove = ["endpoint", "remove", "--org", NOBODY, NOBODY];
    place.run(&remove).await.failed(1, "there is no endpoint");
    for verb in ["retry", "replay", "cancel", "show"] {
        let command = ["delivery", verb, "--org", NOBODY, NOBODY];
        place.run(&command).await.failed(1, "delivery");
    }
    for list in ["delivery", "replay"] {
        place.run(&[list, "list", "--org", NOBODY]).await.failed(1, &organisation);
    }
    place.run(&["replay", "show", "--org", NOBODY, NOBODY]).await.failed(1, "there is no replay");
    let since = ["delivery", "list", "--org", NOBODY, "--since", "noon"];
    place.run(&since).await.failed(2, "RFC 3339");
    let files: Vec<_> = place.path().join("data").read_dir().unwrap().collect();
    assert_eq!(files.len(), 1, "the WAL is folded into the file: {files:?}");

    place.json(&["migrate", "down", "--yes"]).await;
    place.run(&["org", "list"]).await.failed(1, "hookgate migrate up");
}

#[tokio::test]
async fn deliveries_are_looked_into_and_sent_again_beside_a_running_server() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[("RETRY_SCHEDULE", "none")]).await;
    let (key, _) = server.first_keys().await;
    let receiver = Receiver::start().await;
    receiver.answer([Answer::status(500)]);
    let endpoint = post(&server, &key, "/api/endpoints", json!({ "url": receiver.url("/") })).await;
    receiver.trust(&text(&endpoint, "secret").parse().unwrap());
    post(&server, &key, "/api/events", json!({ "type": "a", "payload": 1 })).await;
    let org = place.json(&["org", "list"]).await;
    let org = text(&org[0], "id");
    let mut dead = json!([]);
    until("the delivery is dead", async || {
        dead = place.json(&["delivery", "list", "--org", org, "--status", "dead"]).await;
        dead != json!([])
    })
    .await;
    let id = text(&dead[0], "id");
    let shown = place.json(&["delivery", "show", "--org", org, id]).await;
    assert_eq!(shown["attempts"][0]["status_code"], 500);
    let new = place.json(&["delivery", "replay", "--org", org, id]).await;
    assert_eq!((text(&new, "replay_of"), text(&new, "status")), (id, "pending"));
    receiver.received(2).await;
    let cancel = ["delivery", "cancel", "--org", org, id];
    place.run(&cancel).await.failed(1, "only a pending one");
    let retried = place.json(&["delivery", "retry", "--org", org, id]).await;
    assert_eq!((text(&retried, "id"), text(&retried, "status")), (id, "pending"));
    receiver.received(3).await;
    let log = place.json(&["audit", "list", "--org", org]).await;
    for (line, action) in log.as_array().unwrap().iter().zip(["delivery.retry", "delivery.replay"])
    {
        let told = (text(line, "action"), text(line, "actor"), text(line, "object"));
        assert_eq!(told, (action, "cli", id));
    }
    let replay = post(&server, &key, "/api/dead-letters/replay", json!({})).await;
    let replays = place.json(&["replay", "list", "--org", org]).await;
    assert_eq!(replays[0]["id"], replay["id"]);
    let show = ["replay", "show", "--org", org, text(&replay, "id")];
    let said = place.run(&show).await;
    assert!(said.code == 0 && said.out.contains("done: 0 of 0"), "{} {}", said.out, said.err);
    server.stop().await;
}

#[tokio::test]
async fn misspelt_command_is_told_from_one_that_failed() {
    let place = Place::new();
    place.run(&["org", "crate"]).await.failed(2, "unrecognized subcommand");
    place.run(&["key", "create", "--name", "x"]).await.failed(2, "<--org <ID>|--operator>");
    let both = ["key", "create", "--name", "x", "--operator", "--org", NOBODY];
    place.run(&both).await.failed(2, "cannot be used with");
    place.run(&["org", "create", "--name", " "]).await.failed(1, "name must be");
    let limit = ["org", "create", "--name", "x", "--rate-limit-per-minute", "0"];
    place.run(&limit).await.failed(2, "must be a whole number from 1 to");
    place.run(&["serve", "--auth-poll-interval", "0s"]).await.failed(2, "at least 1ms");
    place.run(&["serve", "--auth-cache-ttl", "2000years"]).await.failed(2, "ten years");
    place.run(&["serve", "--log", "a=b=c"]).await.failed(1, "RUST_LOG");
}

#[tokio::test]
async fn start_that_fails_tells_why_and_no_secret() {
    let place = Place::new();
    let serve = ["serve", "--port", "0", "--database-timeout", "1s"];
    for (url, why) in [
        ("mysql://u:s3cret@localhost/x", "must start with postgres://"),
        ("postgres://u:s3cret@localhost:99999/x", "invalid port number"),
    ] {
        place.run_with(&serve, &[("DATABASE_URL", url)]).await.failed(1, why);
    }
    // A server waits for a database that is away; a command does not.
    let list = ["org", "list", "--database-timeout", "1s"];
    for (url, why) in [
        ("postgres://u:s3cret@127.0.0.1:1/x", "Connection refused"),
        ("postgres://u:s3cret@nowhere.invalid/x", "failed to lookup address"),
    ] {
        place.run_with(&list, &[("DATABASE_URL", url)]).await.failed(1, why);
    }
    std::fs::write(place.path().join("file"), "").unwrap();
    let there = ["serve", "--port", "0", "--data-dir", "file/data"];
    place.run(&there).await.failed(1, "cannot create the data directory file/data");
    std::fs::create_dir_all(place.path().join("odd/hookgate.db")).unwrap();
    let odd = ["serve", "--port", "0", "--data-dir", "odd"];
    place.run(&odd).await.failed(1, "cannot open odd/hookgate.db");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = place.run(&["serve", "--port", &port]).await;
    said.failed(1, "cannot listen on 127.0.0.1");
    place.run(&["listen", "--port", &port]).await.failed(1, "cannot listen on 127.0.0.1");
}

#[tokio::test]
async fn env_is_read_from_the_working_directory_only_and_not_repeated() {
    let place = Place::new();
    let inside = place.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(place.path().join(".env"), "DATA_DIR=elsewhere\n").unwrap();
    place.json(&["migrate", "up"]).await;
    assert!(place.path().join("elsewhere/hookgate.db").exists());
    let output = place.command(&["migrate", "up"]).current_dir(&inside).output().await.unwrap();
    assert!(output.status.success());
    assert!(inside.join("data/hookgate.db").exists());

    let broken = "# Settings\nDATABASE_URL=postgres://u:s3cret word@localhost/x\n";
    std::fs::write(place.path().join(".env"), broken).unwrap();
    place.run(&["org", "list"]).await.failed(1, ".env: line 2 is not NAME=value");
}

#[tokio::test]
async fn second_server_on_one_data_directory_is_refused_and_makes_no_keys() {
    let place = Place::new();
    let mut server = Binary::start(&place.data_dir(), &[]).await;
    server.first_keys().await;
    let second = place.run(&["serve", "--port", "0"]).await;
    assert_eq!(second.code, 1);
    assert!(second.err.contains("in use by another process"), "{}", second.err);
    server.stop().await;

    // Keys are made once all that can fail has not, also where the store is elsewhere.
    let url = postgres::fresh_database().await;
    std::fs::write(place.path().join("file"), "").unwrap();
    let settings = [("DATABASE_URL", url.as_str()), ("DATA_DIR", "file/data"), ("PORT", "0")];
    assert_eq!(place.run_with(&["serve"], &settings).await.code, 1);
    let on_database = [("DATABASE_URL", url.as_str())];
    assert_eq!(place.run_with(&["migrate", "up"], &on_database).await.code, 0);
    let keys = place.run_with(&["key", "list"], &on_database).await;
    assert_eq!((keys.code, keys.out.as_str()), (0, "none\n"), "{}", keys.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_servers_that_start_on_one_empty_database_one_makes_the_first_keys() {
    let (one, other) = (Place::new(), Place::new());
    let url = postgres::fresh_database().await;
    let settings = [("DATABASE_URL", url.as_str())];
    let (first, second) =
        tokio::join!(Binary::start(one.path(), &settings), Binary::start(other.path(), &settings));
    first.stop().await;
    second.stop().await;
    let list = |what| [what, "list", "--output", "json"];
    for (what, count) in [("org", 1), ("key", 2)] {
        let said = one.run_with(&list(what), &settings).await;
        let rows: Vec<Value> = serde_json::from_str(&said.out).unwrap();
        assert_eq!(rows.len(), count, "{}", said.out);
    }
}

#[tokio::test]
async fn second_signal_ends_a_server_that_is_stopping() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--port", "0", "--log-format", "json"]);
    let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut logged = async |message: &str| -> Value {
        loop {
            let line = log.next_line().await.unwrap().expect("another line");
            let event: Value = serde_json::from_str(&line).unwrap();
            if text(&event, "message").starts_with(message) {
                return event;
            }
        }
    };
    let listening = logged("listening").await;
    let (key, _) = first_keys(&place.path().join("data")).await;
    // A request whose body does not come keeps the server waiting. That it is in flight shows in
    // the server's asking for the body.
    let mut open = TcpStream::connect(text(&listening, "address")).await.unwrap();
    let head = format!(
        "POST /api/events HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: 9\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\n\r\n"
    );
    open.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 12];
    open.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100");

    let id = Pid::from_raw(i32::try_from(server.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    logged("stopping; once more to stop at once").await;
    kill_process(id, Signal::INT).unwrap();
    logged("stopping at once").await;
    assert_eq!(server.wait().await.unwrap().code(), Some(130));
}

#[tokio::test]
async fn server_whose_log_nobody_reads_any_more_goes_on_and_stops_when_asked() {
    let place = Place::new();
    let mut command = place.command(&["serve", "--port", "0", "--log-format", "json"]);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
    while !log.next_line().await.unwrap().expect("another line").contains("listening") {}
    drop(log);
    let id = Pid::from_raw(i32::try_from(server.id().unwrap()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    assert_eq!(server.wait().await.unwrap().code(), Some(0));

    let mut failing = place.command(&["org", "create", "--name", " "]);
    let mut failing = failing.stderr(Stdio::piped()).spawn().unwrap();
    drop(failing.stderr.take());
    assert_eq!(failing.wait().await.unwrap().code(), Some(1));
}

async fn post(server: &Binary, key: &str, path: &str, body: Value) -> Value {
    let request = client().post(format!("{}{path}", server.base_url));
    let request = request.header("x-api-key", key).header("content-type", "application/json");
    let response = request.body(body.to_string()).send().await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    serde_json::from_str(&response.text().await.unwrap()).unwrap()
}
