//! The clients in `clients/`: generated from the OpenAPI document, and run against the real server.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use hookgate::http::openapi_document;
use tokio::process::Command;

use crate::support::binary::Binary;
use crate::support::temporary;

/// Runs a script of this repository, and returns what it prints. Panics with its errors when it fails.
async fn run<S: AsRef<OsStr>>(script: &str, arguments: &[S], settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
    command.args(arguments).envs(settings.iter().copied()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Writes the document, as `hookgate openapi` prints it.
fn document_in(directory: &Path) -> PathBuf {
    let file = directory.join("openapi.json");
    fs::write(&file, openapi_document().to_string()).unwrap();
    file
}

/// The client posts, reads, receives, and copes with what goes wrong.
async fn works(client: &str) {
    let directory = temporary::directory();
    let document = document_in(directory.path());
    let mut server = Binary::start(&directory.path().join("data"), &[]).await;
    let (key, _) = server.first_keys().await;
    let settings = [("HOOKGATE_URL", server.base_url.as_str()), ("HOOKGATE_API_KEY", &key)];
    let arguments = [OsStr::new(client), document.as_os_str(), directory.path().as_os_str()];
    let said = run("tests/clients/run", &arguments, &settings).await;
    assert!(said.ends_with(&format!("{client}: the client works\n")), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn python_client_works_against_a_server() {
    works("python").await;
}

#[tokio::test]
async fn typescript_client_works_against_a_server() {
    works("typescript").await;
}

#[tokio::test]
async fn postman_collection_is_that_of_the_document() {
    let directory = temporary::directory();
    let document = document_in(directory.path());
    let arguments = ["--document".as_ref(), document.as_os_str(), "--into".as_ref()];
    let arguments = [&arguments[..], &[directory.path().as_os_str(), "postman".as_ref()]].concat();
    run("clients/generate", &arguments, &[]).await;
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/postman.json");
    let is_current =
        fs::read(kept).unwrap() == fs::read(directory.path().join("postman.json")).unwrap();
    assert!(
        is_current,
        "clients/postman.json is not that of the API: run clients/generate postman"
    );
}
