//! The console in a real Chromium: every flow, axe-core on every page, no error, no request to another host.
//!
//! `HOOKGATE_SCREENSHOTS=<directory>` keeps a picture of every page.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::PROGRAMS;
use crate::support::binary::Binary;
use crate::support::postgres::fresh_database;

/// A receiver that takes every webhook but those to `/refuse`, whatever their signature: the console makes the secret.
async fn receiver(tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tasks.spawn(async move {
        let mut answers = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answers.spawn(answer(stream));
        }
    });
    url
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    // Test events are small; the client closes a connection that it was told to.
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request).to_lowercase();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    let mut rest = vec![0; length.saturating_sub(body.len())];
    stream.read_exact(&mut rest).await?;
    let status = if head.contains(" /refuse ") { "401 Unauthorized" } else { "200 OK" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    stream.write_all(answer.as_bytes()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_reads_and_steers_every_page() {
    let mut listed = PROGRAMS.lines().filter_map(|line| line.split_once(' '));
    assert!(listed.any(|(program, _)| program == "chromium"));
    let database = fresh_database().await;
    // It reads every page several times in a minute.
    let reads = ("READ_RATE_LIMIT_PER_MINUTE", "1000000");
    for settings in [&[reads][..], &[reads, ("DATABASE_URL", database.as_str())]] {
        let mut tasks = JoinSet::new();
        let directory = crate::support::temporary::directory();
        let mut server = Binary::start(directory.path(), settings).await;
        let (key, operator) = server.first_keys().await;
        let run = format!("{}/tests/console/run", env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(run);
        command.args([&server.base_url, &key, &operator, &receiver(&mut tasks).await]);
        match std::env::var_os("HOOKGATE_SCREENSHOTS") {
            _ if settings.len() > 1 => command.arg("brief"),
            Some(shots) => command.arg(shots),
            None => &mut command,
        };
        let run = command.kill_on_drop(true).output().await.unwrap();
        let told = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "sudo apt-get install chromium, if it is missing: {told}");
        server.stop().await;
    }
}
