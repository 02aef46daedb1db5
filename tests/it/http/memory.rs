//! The memory of a server whose clients half-send bodies or do not read answers.

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::binary::Binary;
use crate::support::client;
use crate::support::wait::until;

const MB: u64 = 1_000_000;

/// The most memory that the server has used while `work` went on.
async fn peak(client: &Client, server: &Binary, work: impl Future<Output = ()>) -> u64 {
    let mut work = std::pin::pin!(work);
    let mut most = 0;
    loop {
        let health = client.get(format!("{}/api/health", server.base_url)).send().await.unwrap();
        let health: Value = serde_json::from_str(&health.text().await.unwrap()).unwrap();
        most = most.max(health["memory_bytes"].as_u64().unwrap());
        tokio::select! {
            () = &mut work => return most,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

async fn connect(server: &Binary) -> TcpStream {
    let address = server.base_url.strip_prefix("http://").unwrap().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_hundred_half_sent_batches_stay_under_400_mb() {
    const BYTES: usize = 5 * 1024 * 1024;
    let dir = crate::support::temporary::directory();
    let mut server = Binary::start(dir.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    let client = client();
    let work = async {
        let mut sending = JoinSet::new();
        for _ in 0..400 {
            let mut stream = connect(&server).await;
            let head = format!(
                "POST /api/events/batch HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n\
                 content-type: application/json\r\ncontent-length: {BYTES}\r\n\r\n"
            );
            let piece = vec![b' '; 65_536];
            sending.spawn(async move {
                stream.write_all(head.as_bytes()).await.unwrap();
                // A refused one may be cut off.
                for _ in 0..BYTES / 65_536 - 1 {
                    if stream.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                stream
            });
        }
        let open = sending.join_all().await;
        // Another one is answered beside them.
        let post = client.post(format!("{}/api/events", server.base_url)).header("x-api-key", &key);
        let post = post.header("content-type", "application/json");
        let answer = post.body(r#"{"type":"a","payload":1}"#).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        drop(open);
    };
    let most = peak(&client, &server, work).await;
    assert!(most < 400 * MB, "{most} bytes");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_unread_lists_stay_under_300_mb() {
    let dir = crate::support::temporary::directory();
    let mut server = Binary::start(dir.path(), &[]).await;
    let (key, _) = server.first_keys().await;
    let client = client();
    let payload = "x".repeat(256 * 1024 - 2);
    for _ in 0..40 {
        let post = client.post(format!("{}/api/events", server.base_url)).header("x-api-key", &key);
        let post = post.header("content-type", "application/json");
        let answer = post.body(format!(r#"{{"type":"a","payload":"{payload}"}}"#)).send().await;
        assert_eq!(answer.unwrap().status(), 202);
    }
    let list = format!("{}/api/events?limit=500", server.base_url);
    let is_stored = async || {
        let listed = client.get(&list).header("x-api-key", &key).send().await.unwrap();
        let page: Value = serde_json::from_str(&listed.text().await.unwrap()).unwrap();
        page["data"].as_array().unwrap().len() == 40
    };
    until("the events are stored", async || is_stored().await).await;
    let work = async {
        let mut open = Vec::new();
        for _ in 0..30 {
            let mut stream = connect(&server).await;
            let request = format!(
                "GET /api/events?limit=500&include=payload HTTP/1.1\r\nhost: x\r\n\
                 x-api-key: {key}\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            open.push(stream);
        }
        let mut statuses = Vec::new();
        for stream in &mut open {
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.unwrap();
            statuses.push(String::from_utf8_lossy(&status[9..]).into_owned());
        }
        statuses.retain(|status| status != "200");
        assert!(statuses.iter().all(|status| status == "429"), "{statuses:?}");
        assert!(statuses.len() < 30, "some are answered");
    };
    let most = peak(&client, &server, work).await;
    assert!(most < 300 * MB, "{most} bytes");
    server.stop().await;
}
