//! The OpenAPI document and the page that shows it.

use std::fmt::Write as _;
use std::io::Read;

use flate2::read::GzDecoder;
use hookgate::http::openapi_document;
use reqwest::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::server::{self, Server};

const PAGE: &str = include_str!("../../../src/http/docs/page.html");
const README: &str = include_str!("../../../src/http/docs/README.md");

#[tokio::test]
async fn document_is_served_to_anyone_and_not_again_to_those_who_have_it() {
    let server = Server::start().await;
    let answer = server::answer(server.bare(Method::GET, "/openapi.json")).await;
    assert_eq!(answer.expect(200), openapi_document());
    assert_eq!(answer.header("cache-control"), "public, max-age=3600");
    assert_eq!(answer.header("vary"), "accept-encoding");
    let etag = answer.header("etag").to_owned();
    assert!(etag.starts_with('"'), "{etag} is not strong");
    let again = server.bare(Method::GET, "/openapi.json").header("if-none-match", &etag);
    let again = server::answer(again).await;
    assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""));
    assert_eq!(again.header("etag"), etag);
    let head = server::answer(server.bare(Method::HEAD, "/openapi.json")).await;
    assert_eq!((head.status.as_u16(), head.header("etag")), (200, etag.as_str()));
}

#[tokio::test]
async fn compressed_form_is_the_same_document_with_a_tag_of_its_own() {
    let server = Server::start().await;
    let plain = server::answer(server.bare(Method::GET, "/openapi.json")).await;
    let packed = server.bare(Method::GET, "/openapi.json").header("accept-encoding", "br, gzip");
    let packed = packed.send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_ne!(packed.headers()["etag"], plain.header("etag"));
    let packed = packed.bytes().await.unwrap();
    assert!(packed.len() < plain.text.len() / 5, "{} bytes", packed.len());
    let mut unpacked = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.text);
}

#[tokio::test]
async fn page_has_its_files_on_the_server_and_no_script_of_its_own() {
    let server = Server::start().await;
    let page = server::answer(server.bare(Method::GET, "/docs")).await;
    page.expect_text(200);
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(policy.contains("connect-src 'self'"), "{policy}");
    for script in PAGE.split("<script").skip(1) {
        let (head, body) = script.split_once('>').unwrap();
        assert!(head.contains("src=\"") && body.starts_with("</script>"), "<script{script}");
    }
    assert!(!PAGE.contains("://"), "the page leads to another server");
    let links = PAGE.split("=\"docs/").skip(1).map(|rest| rest.split('"').next().unwrap());
    for name in links {
        let file = server::answer(server.bare(Method::GET, &format!("/docs/{name}"))).await;
        file.expect_text(200);
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        let kind = if name.ends_with("js") { "text/javascript" } else { "text/css" };
        assert!(file.header("content-type").starts_with(kind), "{name}");
    }
    let missing = server::answer(server.bare(Method::GET, "/docs/other.js")).await;
    missing.expect_problem(404, "not_found");
}

/// The table of `README.md` says where each file is from.
#[tokio::test]
async fn vendored_files_are_those_of_their_table() {
    let server = Server::start().await;
    for name in ["swagger-ui-bundle.js", "swagger-ui.css"] {
        let file = server::answer(server.bare(Method::GET, &format!("/docs/{name}"))).await;
        let mut digest = String::new();
        for byte in Sha256::digest(file.text.as_bytes()) {
            write!(digest, "{byte:02x}").unwrap();
        }
        let row = README.lines().find(|line| line.contains(&format!("`{name}.gz`"))).unwrap();
        assert!(row.contains(&digest), "{name}: {digest}");
    }
}

/// The document has every header that pages of other origins may read.
#[test]
fn headers_of_answers_are_described() {
    let document = openapi_document();
    let headers = document["components"]["headers"].as_object().unwrap();
    for name in ["x-trace-id", "location", "warning", "retry-after", "ratelimit", "etag"] {
        assert!(
            headers[name]["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{name}"
        );
    }
    assert!(matches!(document["webhooks"]["event"]["post"]["requestBody"], Value::Object(_)));
}
