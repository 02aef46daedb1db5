//! `X-Forwarded-For` from a peer that is no trusted proxy.

use reqwest::Method;

use crate::support::answer::{answer, json};
use crate::support::binary::Binary;
use crate::support::client;

#[tokio::test(flavor = "multi_thread")]
async fn forwarded_address_of_a_peer_that_is_not_trusted_is_warned_about_once() {
    for (trusted, warnings) in [("10.0.0.0/8", 1), ("127.0.0.0/8", 0)] {
        let dir = crate::support::temporary::directory();
        let mut server = Binary::start(dir.path(), &[("TRUSTED_PROXIES", trusted)]).await;
        let (key, _) = server.first_keys().await;
        for client_address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            let url = format!("{}/api/events", server.base_url);
            let request = client().request(Method::POST, url).header("x-api-key", &key);
            let request = request.header("x-forwarded-for", client_address);
            answer(json(request, r#"{"type":"a","payload":1}"#)).await.expect(202);
        }
        let log = server.stop().await;
        let named = log.iter().filter(|line| line.contains("TRUSTED_PROXIES")).count();
        assert_eq!(named, warnings, "{log:#?}");
    }
}
