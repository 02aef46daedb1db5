//! `hookgate health`, as a container's health check runs it.

use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use super::Place;
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::tls::Authority;

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_whether_the_server_of_the_same_settings_takes_events() {
    let place = Place::new();
    let server = Binary::start(&place.data_dir(), &[]).await;
    let port = server.base_url.rsplit(':').next().unwrap().to_owned();
    let settings = [("HOST", "0.0.0.0"), ("PORT", port.as_str())];
    let said = place.run_with(&["health"], &settings).await;
    assert_eq!((said.code, said.out.as_str()), (0, "ready\n"), "{}", said.err);
    let strict = ["health", "--strict", "--output", "json", "--url", &server.base_url];
    let said = place.run(&strict).await;
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.code, &report["checks"]["store"]), (0, &"ok".into()), "{report}");

    server.stop().await;
    place.run_with(&["health"], &settings).await.failed(1, "no answer from http://127.0.0.1:");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_fails_when_the_disk_is_too_full_for_events() {
    let place = Place::new();
    let full = [("DISK_FREE_WARN_MIB", "1000000000"), ("DISK_FREE_MIN_MIB", "1000000000")];
    let server = Binary::start(&place.data_dir(), &full).await;
    let asked = ["health", "--url", &server.base_url];
    place.run(&asked).await.failed(1, "unready: disk storage_low");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_by_https_where_the_server_has_a_certificate_for_another_name() {
    let place = Place::new();
    let (cert, key) = (place.path().join("cert.pem"), place.path().join("key.pem"));
    Authority::new().identity("events.example.com").write(&cert, &key);
    let tls = [("TLS_CERT", cert.to_str().unwrap()), ("TLS_KEY", key.to_str().unwrap())];
    let server = Binary::start(&place.data_dir(), &tls).await;
    let port = server.base_url.rsplit(':').next().unwrap().to_owned();
    let settings = [("PORT", port.as_str()), tls[0]];
    let said = place.run_with(&["health"], &settings).await;
    assert_eq!((said.code, said.out.as_str()), (0, "ready\n"), "{}", said.err);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_is_drained_once_every_event_is_stored_and_none_comes() {
    let place = Place::new();
    let data_dir = place.data_dir();
    let mut server = Binary::start(&data_dir, &[]).await;
    let (key, _) = server.first_keys().await;
    let file = SqliteConnectOptions::new().filename(data_dir.join("hookgate.db"));
    let mut lock = file.connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut lock).await.unwrap();
    let event = client().post(format!("{}/api/events", server.base_url)).header("x-api-key", key);
    let event =
        event.header("content-type", "application/json").body(r#"{"type":"a","payload":1}"#);
    assert_eq!(event.send().await.unwrap().status(), 202);

    let drained = |most| ["health", "--url", &server.base_url, "--drained", most];
    place.run(&drained("1s")).await.failed(1, "not drained: 1 events wait to be stored");
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.unwrap();
    let said = place.run(&drained("1m")).await;
    assert_eq!((said.code, said.out.as_str()), (0, "drained\n"), "{}", said.err);
    server.stop().await;
}
