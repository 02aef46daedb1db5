//! `hookgate openapi`.

use hookgate::http::openapi_document;
use serde_json::Value;

use super::Place;

#[tokio::test]
async fn document_is_printed_without_a_server_or_a_store() {
    let place = Place::new();
    let said = place.run(&["openapi"]).await;
    assert_eq!((said.code, said.err.as_str()), (0, ""));
    assert_eq!(serde_json::from_str::<Value>(&said.out).unwrap(), openapi_document());
    assert_eq!(place.files(), Vec::<String>::new());
}
