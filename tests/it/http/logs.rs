//! `/api/admin/logs` of the real binary.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::binary::Binary;
use crate::support::{client, temporary};

#[tokio::test(flavor = "multi_thread")]
async fn operators_change_what_a_running_server_logs() {
    let directory = temporary::directory();
    let mut server = Binary::start(directory.path(), &[("RUST_LOG", "warn,hookgate=info")]).await;
    let (tenant, operator) = server.first_keys().await;
    let call = async |method: Method, key: &str, body: Option<Value>| {
        let url = format!("{}/api/admin/logs", server.base_url);
        let mut request = client().request(method, url).header("x-api-key", key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap())
    };
    let before = call(Method::GET, &operator, None).await;
    assert_eq!(before, (200, json!({"filter": "warn,hookgate=info"})));
    assert_eq!(call(Method::GET, &tenant, None).await.0, 403);
    for wrong in ["inof", "off", "hookgate=nothing"] {
        let (status, problem) =
            call(Method::PATCH, &operator, Some(json!({"filter": wrong}))).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("filter")), "{wrong}");
    }
    let filter = json!({"filter": "hookgate=error,error"});
    assert_eq!(call(Method::PATCH, &operator, Some(filter.clone())).await, (200, filter.clone()));
    assert_eq!(call(Method::GET, &operator, None).await, (200, filter));
    let log = server.stop().await;
    let changed = |line: &String| line.contains("an operator changes what is logged");
    let at = log.iter().position(changed).unwrap();
    assert!(log[..at].iter().any(|line| line.contains("\"INFO\"")), "{log:#?}");
    // A server that stops says so at this level otherwise.
    assert_eq!(log[at + 1..], [""; 0], "{log:#?}");
}
