//! Tests that run programs which only the system's packages provide, listed in `programs`.
//!
//! A test whose program is missing fails and names the package to install. The group runs alone with
//! `cargo test --test it system_packages::`; `scripts/test --without-system` leaves it out.

mod console;
mod nginx;
mod pgbouncer;
mod prometheus;
mod proxies;

use std::io::ErrorKind;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::support::binary::Binary;
use crate::support::client;

/// A line per program: its name and its Debian package.
const PROGRAMS: &str = include_str!("programs");

/// Starts a listed program.
fn spawn(program: &str, arguments: &[&str]) -> Child {
    let mut packages = PROGRAMS.lines().filter_map(|line| line.split_once(' '));
    let (_, package) = packages.find(|(name, _)| *name == program).unwrap();
    let mut command = Command::new(program);
    // Servers are in directories that an ordinary user's path lacks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("{program} is missing: sudo apt-get install {package}")
        }
        child => child.unwrap(),
    }
}

/// Runs a listed program with this standard input.
async fn run(program: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = spawn(program, arguments);
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    child.wait_with_output().await.unwrap()
}

#[tokio::test]
async fn promtool_accepts_the_metrics() {
    let directory = crate::support::temporary::directory();
    let mut server = Binary::start(directory.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    let url = |path: &str| format!("{}{path}", server.base_url);
    let event = client().post(url("/api/events")).header("x-api-key", key);
    let event = event.header("content-type", "application/json");
    let posted = event.body(r#"{"type":"user.login","payload":1}"#).send().await.unwrap();
    assert_eq!(posted.status(), 202);

    let metrics = client().get(url("/metrics")).send().await.unwrap().text().await.unwrap();
    let checked = run("promtool", &["check", "metrics"], &metrics).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    server.stop().await;
}
